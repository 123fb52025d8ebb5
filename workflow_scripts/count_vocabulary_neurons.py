"""Rule `count_vocabulary_neurons`."""

from neuronlab.jobs import job
from neuronlab.model_files import ModelSpec
from neuronlab.vocabulary_neurons import count_vocabulary_neurons

with job(snakemake) as run:
    count_vocabulary_neurons(
        model=ModelSpec(**snakemake.params.model),
        neurons=snakemake.input.neurons,
        vocabulary_counts=snakemake.output.vocabulary_counts,
        vocabulary_neurons=snakemake.output.vocabulary_neurons,
        vocab_kurt_min=snakemake.params.vocab_kurt_min,
        vocab_var_min=snakemake.params.vocab_var_min,
        strongest=snakemake.params.strongest,
        level=snakemake.params.level,
        provenance=run.provenance,
    )
