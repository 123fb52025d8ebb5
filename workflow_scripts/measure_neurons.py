"""Rule `measure_neurons`."""

from neuronlab.jobs import job
from neuronlab.model_files import ModelSpec
from neuronlab.weights import measure_neurons

with job(snakemake) as run:
    measure_neurons(
        model=ModelSpec(**snakemake.params.model),
        null_space_k=snakemake.params.null_space_k,
        include_padded=snakemake.params.include_padded,
        neurons_per_tile=snakemake.params.neurons_per_tile,
        seed=snakemake.params.seed,
        neurons=snakemake.output.neurons,
        null_space=snakemake.output.null_space,
        singular_values=snakemake.output.singular_values,
        provenance=run.provenance,
    )
