"""Rule `estimate_stages`."""

from neuronlab.jobs import job
from neuronlab.stages import estimate_stages

with job(snakemake) as run:
    estimate_stages(
        interventions=snakemake.input.interventions or None,
        lens=snakemake.input.lens or None,
        vocabulary_counts=snakemake.input.vocabulary_counts or None,
        local_attention_layers=snakemake.input.local_attention_layers or None,
        stages=snakemake.output.stages,
        resamples=snakemake.params.resamples,
        level=snakemake.params.level,
        seed=snakemake.params.seed,
        provenance=run.provenance,
    )
