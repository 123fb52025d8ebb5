"""Rule `ablate_induction`."""

from neuronlab.final_states import AblationInputs
from neuronlab.induction_ablation import ablate_induction
from neuronlab.jobs import job
from neuronlab.model_files import ModelSpec

with job(snakemake) as run:
    ablate_induction(
        inputs=AblationInputs(
            model=ModelSpec(**snakemake.params.model),
            tokens=snakemake.input.tokens,
            counts=snakemake.input.counts,
            statistics=snakemake.input.statistics,
            **snakemake.params.ablation,
        ),
        selection=snakemake.input.selection,
        repeats=snakemake.input.repeats,
        scores=snakemake.input.scores,
        kind=snakemake.wildcards.kind,
        ablation=snakemake.output.ablation,
        tests=snakemake.output.tests,
        value=snakemake.params.value,
        resamples=snakemake.params.resamples,
        level=snakemake.params.level,
        provenance=run.provenance,
    )
