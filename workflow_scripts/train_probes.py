"""Rule `train_probes`."""

from neuronlab.jobs import job
from neuronlab.model_files import ModelSpec
from neuronlab.probes import train_probes

with job(snakemake) as run:
    train_probes(
        model=ModelSpec(**snakemake.params.model),
        tokens=snakemake.input.tokens,
        neurons=snakemake.input.neurons,
        feature_neurons=snakemake.input.feature_neurons,
        probes=snakemake.output.probes,
        features=snakemake.params.features,
        sizes=snakemake.params.sizes,
        draws=snakemake.params.draws,
        max_tokens=snakemake.params.max_tokens,
        batch_size=snakemake.params.batch_size,
        resamples=snakemake.params.resamples,
        level=snakemake.params.level,
        seed=snakemake.params.seed,
        provenance=run.provenance,
    )
