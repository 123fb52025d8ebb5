"""Rule `compare_published`."""

from neuronlab.jobs import job
from neuronlab.model_files import ModelSpec
from neuronlab.published import compare_published

with job(snakemake) as run:
    compare_published(
        model=ModelSpec(**snakemake.params.model),
        published=snakemake.output.published,
        provenance=run.provenance,
    )
