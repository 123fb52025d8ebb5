"""Rule `overlay_interventions`."""

from neuronlab.figures.interventions import draw
from neuronlab.jobs import job

with job(snakemake):
    draw(
        interventions=snakemake.input.interventions,
        figures=snakemake.output.figures,
        text=snakemake.wildcards.text,
        model=snakemake.params.model,
        level=snakemake.params.level,
    )
