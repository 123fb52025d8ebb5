"""Rule `find_repeats`."""

from neuronlab.documents import TextSpec
from neuronlab.jobs import job
from neuronlab.model_files import ModelSpec
from neuronlab.natural_repeats import find_repeats

with job(snakemake) as run:
    find_repeats(
        model=ModelSpec(**snakemake.params.model),
        text=TextSpec(**snakemake.params.text),
        documents=snakemake.input.documents,
        repeats=snakemake.output.repeats,
        prefix=snakemake.params.prefix,
        min_distance=snakemake.params.min_distance,
        after=snakemake.params.after,
        sequences=snakemake.params.sequences,
        across_documents=snakemake.params.across_documents,
        seed=snakemake.params.seed,
        provenance=run.provenance,
    )
