"""Rule `draw_log_ratio_changes`."""

from neuronlab.figures.log_ratio_changes import draw
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
        level=snakemake.params.level,
        resamples=snakemake.params.resamples,
        seed=snakemake.params.seed,
    )
