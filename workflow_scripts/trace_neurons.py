"""Rule `trace_neurons`."""

from neuronlab.final_states import AblationInputs
from neuronlab.jobs import job
from neuronlab.model_files import ModelSpec
from neuronlab.traces import trace_neurons

with job(snakemake) as run:
    trace_neurons(
        inputs=AblationInputs(
            model=ModelSpec(**snakemake.params.model),
            tokens=snakemake.input.tokens,
            counts=snakemake.input.counts,
            statistics=snakemake.input.statistics,
            **snakemake.params.ablation,
        ),
        selection=snakemake.input.selection,
        traces=snakemake.output.traces,
        sets=snakemake.params.sets,
        tokens=snakemake.params.tokens,
        provenance=run.provenance,
    )
