"""Rule `tokenize_text`."""

from neuronlab.documents import TextSpec
from neuronlab.jobs import job
from neuronlab.model_files import ModelSpec
from neuronlab.texts import tokenize_text

with job(snakemake) as run:
    tokenize_text(
        documents=snakemake.input.documents,
        output=snakemake.output.tokens,
        model=ModelSpec(**snakemake.params.model),
        text=TextSpec(**snakemake.params.text),
        seed=snakemake.params.seed,
        provenance=run.provenance,
    )
