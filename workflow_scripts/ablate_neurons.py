"""Rule `ablate_neurons`."""

from neuronlab.ablation_shards import ablate_neurons
from neuronlab.jobs import job
from neuronlab.model_files import ModelSpec

with job(snakemake) as run:
    ablate_neurons(
        model=ModelSpec(**snakemake.params.model),
        tokens=snakemake.input.tokens,
        counts=snakemake.input.counts,
        statistics=snakemake.input.statistics,
        output=snakemake.output.shard,
        include_padded=snakemake.params.include_padded,
        replacements=snakemake.params.replacements,
        kernel=snakemake.params.kernel,
        batch_size=snakemake.params.batch_size,
        tokens_per_chunk=snakemake.params.tokens_per_chunk,
        neurons_per_tile=snakemake.params.neurons_per_tile,
        shard=snakemake.params.shard,
        shards=snakemake.params.shards,
        seed=snakemake.params.seed,
        provenance=run.provenance,
    )
