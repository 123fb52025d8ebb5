"""Rule `measure_frequency_cosine`."""

from neuronlab.frequency_cosine import measure_frequency_cosine
from neuronlab.jobs import job
from neuronlab.model_files import ModelSpec

with job(snakemake) as run:
    measure_frequency_cosine(
        model=ModelSpec(**snakemake.params.model),
        counts=snakemake.input.counts,
        output=snakemake.output.cosine,
        include_padded=snakemake.params.include_padded,
        provenance=run.provenance,
    )
