"""Rule `draw_interventions`."""

from neuronlab.figures.interventions import draw
from neuronlab.jobs import job

with job(snakemake):
    draw(
        interventions=snakemake.input.interventions,
        figures=snakemake.output.figures,
        model=snakemake.wildcards.model,
        text=snakemake.wildcards.text,
        level=snakemake.params.level,
    )
