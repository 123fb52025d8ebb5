"""Rule `make_repeats`."""

from neuronlab.jobs import job
from neuronlab.model_files import ModelSpec
from neuronlab.repeats import make_repeats

with job(snakemake) as run:
    make_repeats(
        model=ModelSpec(**snakemake.params.model),
        tokens=snakemake.input.tokens,
        repeats=snakemake.output.repeats,
        source=snakemake.params.source,
        length=snakemake.params.length,
        repetitions=snakemake.params.repetitions,
        separator=snakemake.params.separator,
        sequences=snakemake.params.sequences,
        seed=snakemake.params.seed,
        provenance=run.provenance,
    )
