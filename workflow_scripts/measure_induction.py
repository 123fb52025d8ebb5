"""Rule `measure_induction`."""

from neuronlab.final_states import AblationInputs
from neuronlab.induction import measure_induction
from neuronlab.jobs import job
from neuronlab.model_files import ModelSpec

with job(snakemake) as run:
    measure_induction(
        inputs=AblationInputs(
            model=ModelSpec(**snakemake.params.model),
            tokens=snakemake.input.tokens,
            counts=snakemake.input.counts,
            statistics=snakemake.input.statistics,
            **snakemake.params.ablation,
        ),
        selection=snakemake.input.selection,
        repeats=snakemake.input.repeats,
        kind=snakemake.wildcards.kind,
        profile=snakemake.output.profile,
        scores=snakemake.output.scores,
        score_threshold=snakemake.params.score_threshold,
        resamples=snakemake.params.resamples,
        level=snakemake.params.level,
        provenance=run.provenance,
    )
