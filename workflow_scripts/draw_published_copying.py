"""Rule `draw_published_copying`."""

from neuronlab.figures.published_copying import draw
from neuronlab.jobs import job

with job(snakemake):
    draw(
        published=snakemake.input.published,
        figures=snakemake.output.figures,
        model=snakemake.wildcards.model,
        facts=snakemake.wildcards.facts,
        level=snakemake.params.level,
    )
