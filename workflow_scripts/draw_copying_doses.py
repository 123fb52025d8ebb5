"""Rule `draw_copying_doses`."""

from neuronlab.figures.copying_doses import draw
from neuronlab.jobs import job

with job(snakemake):
    draw(
        doses=snakemake.input.doses,
        figures=snakemake.output.figures,
        model=snakemake.wildcards.model,
        facts=snakemake.wildcards.facts,
        level=snakemake.params.level,
    )
