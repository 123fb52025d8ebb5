"""Rule `clamp_neurons`."""

from neuronlab.dose_response import clamp_neurons
from neuronlab.final_states import AblationInputs
from neuronlab.jobs import job
from neuronlab.model_files import ModelSpec

with job(snakemake) as run:
    clamp_neurons(
        inputs=AblationInputs(
            model=ModelSpec(**snakemake.params.model),
            tokens=snakemake.input.tokens,
            counts=snakemake.input.counts,
            statistics=snakemake.input.statistics,
            **snakemake.params.ablation,
        ),
        selection=snakemake.input.selection,
        dose_response=snakemake.output.dose_response,
        values=snakemake.params.values,
        points=snakemake.params.points,
        tokens=snakemake.params.tokens,
        resamples=snakemake.params.resamples,
        level=snakemake.params.level,
        provenance=run.provenance,
    )
