"""Rule `draw_dose_response`."""

from neuronlab.figures.dose_response import draw
from neuronlab.jobs import job

with job(snakemake):
    draw(
        dose_response=snakemake.input.dose_response,
        statistics=snakemake.input.statistics,
        selection=snakemake.input.selection,
        figures=snakemake.output.figures,
        model=snakemake.wildcards.model,
        text=snakemake.wildcards.text,
        level=snakemake.params.level,
    )
