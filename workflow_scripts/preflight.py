"""Rule `preflight`."""

from neuronlab.documents import TextSpec
from neuronlab.jobs import job
from neuronlab.model_files import ModelSpec
from neuronlab.preflight import preflight

with job(snakemake):
    preflight(
        models=[ModelSpec(**model) for model in snakemake.params.models],
        demands=snakemake.params.demands,
        texts=[TextSpec(**text) for text in snakemake.params.texts],
        facts=snakemake.params.facts,
        config=snakemake.config,
        inputs=snakemake.params.inputs,
    )
