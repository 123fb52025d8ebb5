"""Rule `align_neurons`."""

from neuronlab.jobs import job
from neuronlab.model_files import ModelSpec
from neuronlab.weights import align_neurons

with job(snakemake) as run:
    align_neurons(
        model=ModelSpec(**snakemake.params.model),
        selection=snakemake.input.selection,
        alignment=snakemake.output.alignment,
        provenance=run.provenance,
    )
