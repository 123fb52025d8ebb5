"""Rule `measure_activations`."""

from neuronlab.activations import measure_activations
from neuronlab.jobs import job
from neuronlab.model_files import ModelSpec

with job(snakemake) as run:
    measure_activations(
        model=ModelSpec(**snakemake.params.model),
        tokens=snakemake.input.tokens,
        counts=snakemake.input.counts,
        statistics=snakemake.output.statistics,
        baseline=snakemake.output.baseline,
        include_padded=snakemake.params.include_padded,
        layers=snakemake.params.layers,
        histogram_bins=snakemake.params.histogram_bins,
        batch_size=snakemake.params.batch_size,
        provenance=run.provenance,
    )
