"""Rule `decode_conflicts`."""

from neuronlab.decode_conflicts import decode_conflicts
from neuronlab.jobs import job
from neuronlab.model_files import ModelSpec

with job(snakemake) as run:
    decode_conflicts(
        model=ModelSpec(**snakemake.params.model),
        shard=int(snakemake.wildcards.shard),
        conflicts=snakemake.input.conflicts,
        statistics=snakemake.input.statistics,
        sets=snakemake.input.sets,
        variants=snakemake.input.variants,
        decoded=snakemake.output.decoded,
        continuations=snakemake.output.continuations,
        states=snakemake.output.states,
        costs=snakemake.output.costs,
        shards=snakemake.params.shards,
        new_tokens=snakemake.params.new_tokens,
        kernel=snakemake.params.kernel,
        batch_size=snakemake.params.batch_size,
        tokens_per_chunk=snakemake.params.tokens_per_chunk,
        tie=snakemake.params.tie,
        seed=snakemake.params.seed,
        provenance=run.provenance,
    )
