"""Rule `draw_probes`."""

from neuronlab.figures.probes import draw
from neuronlab.jobs import job

with job(snakemake):
    draw(
        probes=snakemake.input.probes,
        figures=snakemake.output.figures,
        model=snakemake.wildcards.model,
        text=snakemake.wildcards.text,
        level=snakemake.params.level,
    )
