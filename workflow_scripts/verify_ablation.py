"""Rule `verify_ablation`."""

from neuronlab.final_states import AblationInputs
from neuronlab.jobs import job
from neuronlab.model_files import ModelSpec
from neuronlab.verification import verify_ablation

with job(snakemake) as run:
    verify_ablation(
        inputs=AblationInputs(
            model=ModelSpec(**snakemake.params.model),
            tokens=snakemake.input.tokens,
            counts=snakemake.input.counts,
            statistics=snakemake.input.statistics,
            **snakemake.params.ablation,
        ),
        verification=snakemake.output.verification,
        pairs=snakemake.params.pairs,
        forward_pairs=snakemake.params.forward_pairs,
        absolute=snakemake.params.absolute,
        relative=snakemake.params.relative,
        float64_mb=snakemake.params.float64_mb,
        provenance=run.provenance,
    )
