"""Rule `trace_neurons`."""

from neuronlab.jobs import job
from neuronlab.model_files import ModelSpec
from neuronlab.traces import trace_neurons

with job(snakemake) as run:
    trace_neurons(
        model=ModelSpec(**snakemake.params.model),
        tokens=snakemake.input.tokens,
        counts=snakemake.input.counts,
        statistics=snakemake.input.statistics,
        selection=snakemake.input.selection,
        traces=snakemake.output.traces,
        include_padded=snakemake.params.include_padded,
        replacements=snakemake.params.replacements,
        kernel=snakemake.params.kernel,
        batch_size=snakemake.params.batch_size,
        tokens_per_chunk=snakemake.params.tokens_per_chunk,
        neurons_per_tile=snakemake.params.neurons_per_tile,
        sets=snakemake.params.sets,
        seed=snakemake.params.seed,
        provenance=run.provenance,
    )
