"""Rule `measure_reference_kl`."""

from neuronlab.final_states import AblationInputs
from neuronlab.jobs import job
from neuronlab.model_files import ModelSpec
from neuronlab.reference_kl import measure_reference_kl

with job(snakemake) as run:
    measure_reference_kl(
        inputs=AblationInputs(
            model=ModelSpec(**snakemake.params.model),
            tokens=snakemake.input.tokens,
            counts=snakemake.input.counts,
            statistics=snakemake.input.statistics,
            **snakemake.params.ablation,
        ),
        selection=snakemake.input.selection,
        references={name: ModelSpec(**spec) for name, spec in snakemake.params.references.items()},
        reference_kl=snakemake.output.reference_kl,
        tokens=snakemake.params.tokens,
        resamples=snakemake.params.resamples,
        level=snakemake.params.level,
        provenance=run.provenance,
    )
