"""Rule `score_heads`."""

from neuronlab.induction_heads import score_heads
from neuronlab.jobs import job
from neuronlab.model_files import ModelSpec

with job(snakemake) as run:
    score_heads(
        model=ModelSpec(**snakemake.params.model),
        repeats={"synthetic": snakemake.input.synthetic, "natural": snakemake.input.natural},
        heads=snakemake.output.heads,
        length=snakemake.params.length,
        sequences=snakemake.params.sequences,
        threshold=snakemake.params.threshold,
        batch_size=snakemake.params.batch_size,
        resamples=snakemake.params.resamples,
        level=snakemake.params.level,
        seed=snakemake.params.seed,
        provenance=run.provenance,
    )
