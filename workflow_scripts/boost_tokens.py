"""Rule `boost_tokens`."""

from neuronlab.boosted_tokens import boost_tokens
from neuronlab.jobs import job
from neuronlab.model_files import ModelSpec

with job(snakemake) as run:
    boost_tokens(
        model=ModelSpec(**snakemake.params.model),
        selection=snakemake.input.selection,
        boosted_tokens=snakemake.output.boosted,
        token_strings=snakemake.output.strings,
        count=snakemake.params.shown,
        provenance=run.provenance,
    )
