"""Rule `score_features`."""

from neuronlab.feature_neurons import score_features
from neuronlab.jobs import job
from neuronlab.model_files import ModelSpec

with job(snakemake) as run:
    score_features(
        model=ModelSpec(**snakemake.params.model),
        neurons=snakemake.input.neurons,
        features=snakemake.output.features,
        feature_neurons=snakemake.output.feature_neurons,
        feature_histograms=snakemake.output.feature_histograms,
        vocab_kurt_min=snakemake.params.vocab_kurt_min,
        vocab_var_min=snakemake.params.vocab_var_min,
        min_tokens=snakemake.params.min_tokens,
        top=snakemake.params.top,
        provenance=run.provenance,
    )
