"""Rule `count_tokens`."""

from neuronlab.documents import TextSpec
from neuronlab.frequencies import count_tokens
from neuronlab.jobs import job
from neuronlab.model_files import ModelSpec

with job(snakemake) as run:
    count_tokens(
        documents=snakemake.input.documents,
        counts=snakemake.input.get("counts") or None,
        output=snakemake.output.counts,
        model=ModelSpec(**snakemake.params.model),
        text=TextSpec(**snakemake.params.text),
        provenance=run.provenance,
    )
