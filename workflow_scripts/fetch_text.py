"""Rule `fetch_text`."""

from neuronlab.documents import TextSpec
from neuronlab.fetching import fetch_text
from neuronlab.jobs import job

with job(snakemake) as run:
    fetch_text(
        text=TextSpec(**snakemake.params.text),
        documents=snakemake.output.documents,
        manifest=snakemake.output.manifest,
        provenance=run.provenance,
    )
