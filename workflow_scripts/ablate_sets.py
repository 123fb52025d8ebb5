"""Rule `ablate_sets`."""

from neuronlab.final_states import AblationInputs
from neuronlab.jobs import job
from neuronlab.model_files import ModelSpec
from neuronlab.set_ablation import ablate_sets

with job(snakemake) as run:
    ablate_sets(
        inputs=AblationInputs(
            model=ModelSpec(**snakemake.params.model),
            tokens=snakemake.input.tokens,
            counts=snakemake.input.counts,
            statistics=snakemake.input.statistics,
            **snakemake.params.ablation,
        ),
        selection=snakemake.input.selection,
        set_effects=snakemake.output.set_effects,
        set_verification=snakemake.output.set_verification,
        temperature=snakemake.output.temperature,
        calibration=snakemake.output.calibration,
        reliability=snakemake.output.reliability,
        bins=snakemake.params.bins,
        tokens=snakemake.params.tokens,
        verification_pairs=snakemake.params.verification_pairs,
        absolute=snakemake.params.absolute,
        relative=snakemake.params.relative,
        float64_mb=snakemake.params.float64_mb,
        resamples=snakemake.params.resamples,
        level=snakemake.params.level,
        te_floor=snakemake.params.te_floor,
        provenance=run.provenance,
    )
