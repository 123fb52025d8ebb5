"""Rule `ablate_neurons`."""

from neuronlab.ablation_shards import ablate_neurons
from neuronlab.final_states import AblationInputs
from neuronlab.jobs import job
from neuronlab.model_files import ModelSpec

with job(snakemake) as run:
    ablate_neurons(
        inputs=AblationInputs(
            model=ModelSpec(**snakemake.params.model),
            tokens=snakemake.input.tokens,
            counts=snakemake.input.counts,
            statistics=snakemake.input.statistics,
            **snakemake.params.ablation,
        ),
        output=snakemake.output.shard,
        shard=snakemake.params.shard,
        shards=snakemake.params.shards,
        provenance=run.provenance,
    )
