"""Rule `ablate_heads`."""

from neuronlab.final_states import AblationInputs
from neuronlab.head_ablation import ablate_heads
from neuronlab.jobs import job
from neuronlab.model_files import ModelSpec

with job(snakemake) as run:
    ablate_heads(
        inputs=AblationInputs(
            model=ModelSpec(**snakemake.params.model),
            tokens=snakemake.input.tokens,
            counts=snakemake.input.counts,
            statistics=snakemake.input.statistics,
            **snakemake.params.ablation,
        ),
        selection=snakemake.input.selection,
        repeats=snakemake.input.repeats,
        heads=snakemake.input.heads,
        head_ablation=snakemake.output.head_ablation,
        head_neurons=snakemake.output.head_neurons,
        head_verification=snakemake.output.head_verification,
        top=snakemake.params.top,
        sets=snakemake.params.sets,
        baselines=snakemake.params.baselines,
        methods=snakemake.params.methods,
        sequences=snakemake.params.sequences,
        verification_positions=snakemake.params.verification_positions,
        absolute=snakemake.params.absolute,
        relative=snakemake.params.relative,
        float64_mb=snakemake.params.float64_mb,
        resamples=snakemake.params.resamples,
        level=snakemake.params.level,
        provenance=run.provenance,
    )
