"""Rule `draw_transition_matrix`."""

from neuronlab.figures.transition_matrix import draw
from neuronlab.jobs import job

with job(snakemake):
    draw(
        transitions=snakemake.input.transitions,
        figures=snakemake.output.figures,
        model=snakemake.wildcards.model,
        facts=snakemake.wildcards.facts,
        replacement=snakemake.params.replacement,
        level=snakemake.params.level,
    )
