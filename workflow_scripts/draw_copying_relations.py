"""Rule `draw_copying_relations`."""

from neuronlab.figures.copying_relations import draw
from neuronlab.jobs import job

with job(snakemake):
    draw(
        relations=snakemake.input.relations,
        figures=snakemake.output.figures,
        model=snakemake.wildcards.model,
        facts=snakemake.wildcards.facts,
        replacement=snakemake.params.replacement,
        level=snakemake.params.level,
    )
