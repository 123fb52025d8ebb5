"""Rule `ablate_synthetic`."""

from neuronlab.final_states import AblationInputs
from neuronlab.jobs import job
from neuronlab.model_files import ModelSpec
from neuronlab.synthetic import ablate_synthetic

with job(snakemake) as run:
    ablate_synthetic(
        inputs=AblationInputs(
            model=ModelSpec(**snakemake.params.model),
            tokens=snakemake.input.tokens,
            counts=snakemake.input.counts,
            statistics=snakemake.input.statistics,
            **snakemake.params.ablation,
        ),
        selection=snakemake.input.selection,
        synthetic=snakemake.output.synthetic,
        draws=snakemake.params.draws,
        resamples=snakemake.params.resamples,
        level=snakemake.params.level,
        te_floor=snakemake.params.te_floor,
        provenance=run.provenance,
    )
