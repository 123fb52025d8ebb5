"""Rule `measure_lens`."""

from neuronlab.jobs import job
from neuronlab.logit_lens import measure_lens
from neuronlab.model_files import ModelSpec

with job(snakemake) as run:
    measure_lens(
        model=ModelSpec(**snakemake.params.model),
        tokens=snakemake.input.tokens,
        lens=snakemake.output.lens,
        lens_documents=snakemake.output.lens_documents,
        lens_tokens=snakemake.output.lens_tokens,
        sequences=snakemake.params.sequences,
        passages=snakemake.params.passages,
        passage_tokens=snakemake.params.passage_tokens,
        batch_size=snakemake.params.batch_size,
        tokens_per_chunk=snakemake.params.tokens_per_chunk,
        resamples=snakemake.params.resamples,
        level=snakemake.params.level,
        seed=snakemake.params.seed,
        provenance=run.provenance,
    )
