"""Rule `summarize_effects`."""

from neuronlab.effects import summarize_effects
from neuronlab.jobs import job

with job(snakemake) as run:
    summarize_effects(
        shards=snakemake.input.shards,
        effects=snakemake.output.effects,
        resamples=snakemake.params.resamples,
        level=snakemake.params.level,
        te_floor=snakemake.params.te_floor,
        seed=snakemake.params.seed,
        provenance=run.provenance,
    )
