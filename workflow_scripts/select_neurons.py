"""Rule `select_neurons`."""

from neuronlab.jobs import job
from neuronlab.selection import select_neurons

with job(snakemake) as run:
    select_neurons(
        neurons=snakemake.input.neurons,
        null_space=snakemake.input.null_space,
        singular_values=snakemake.input.singular_values,
        activation_statistics=next(iter(snakemake.input.statistics), None),
        selection=snakemake.output.selection,
        selections=snakemake.params.selections,
        control_sets=snakemake.params.control_sets,
        null_space_k=snakemake.params.null_space_k,
        seed=snakemake.params.seed,
        provenance=run.provenance,
    )
