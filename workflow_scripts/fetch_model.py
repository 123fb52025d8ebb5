"""Rule `fetch_model`."""

from neuronlab.fetching import fetch_model
from neuronlab.jobs import job
from neuronlab.model_files import ModelSpec

with job(snakemake):
    fetch_model(model=ModelSpec(**snakemake.params.model), manifest=snakemake.output.manifest)
