"""Rule `draw_published`."""

from neuronlab.figures.published import draw
from neuronlab.jobs import job

with job(snakemake):
    draw(
        published=snakemake.input.published,
        figures=snakemake.output.figures,
        model=snakemake.wildcards.model,
    )
