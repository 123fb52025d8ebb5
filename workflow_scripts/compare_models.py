"""Rule `compare_models`."""

from neuronlab.comparison import compare_models
from neuronlab.jobs import job

with job(snakemake) as run:
    compare_models(
        models=snakemake.params.models,
        neurons=snakemake.input.neurons,
        summaries=snakemake.input.summary,
        spectra=snakemake.input.spectrum,
        comparison_neurons=snakemake.output.neurons,
        comparison_summary=snakemake.output.summary,
        comparison_spectra=snakemake.output.spectra,
        provenance=run.provenance,
    )
