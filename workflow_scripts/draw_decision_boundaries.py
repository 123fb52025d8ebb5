"""Rule `draw_decision_boundaries`."""

from neuronlab.figures.decision_boundaries import draw
from neuronlab.jobs import job

with job(snakemake):
    draw(
        states=snakemake.input.states,
        decoded=snakemake.input.decoded,
        conflicts=snakemake.input.conflicts,
        variants=snakemake.input.variants,
        figures=snakemake.output.figures,
        model=snakemake.wildcards.model,
        facts=snakemake.wildcards.facts,
        replacement=snakemake.params.replacement,
    )
