"""Rule `score_subjoiners`."""

from neuronlab.documents import TextSpec
from neuronlab.jobs import job
from neuronlab.model_files import ModelSpec
from neuronlab.subjoiners import score_subjoiners

with job(snakemake) as run:
    score_subjoiners(
        model=ModelSpec(**snakemake.params.model),
        text=TextSpec(**snakemake.params.text),
        documents=snakemake.input.documents,
        subjoiners=snakemake.output.subjoiners,
        subjoiner_examples=snakemake.output.subjoiner_examples,
        pieces=snakemake.params.pieces,
        words=snakemake.params.words,
        context=snakemake.params.context,
        examples=snakemake.params.examples,
        batch_size=snakemake.params.batch_size,
        resamples=snakemake.params.resamples,
        level=snakemake.params.level,
        seed=snakemake.params.seed,
        provenance=run.provenance,
    )
