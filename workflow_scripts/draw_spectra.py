"""Rule `draw_spectra`."""

from neuronlab.figures.spectra import draw
from neuronlab.jobs import job

with job(snakemake):
    draw(
        spectra=snakemake.input.spectra,
        figures=snakemake.output.figures,
        comparison=snakemake.wildcards.comparison,
    )
