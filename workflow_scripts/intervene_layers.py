"""Rule `intervene_layers`."""

from neuronlab.interventions import intervene_layers
from neuronlab.jobs import job
from neuronlab.model_files import ModelSpec

with job(snakemake) as run:
    intervene_layers(
        model=ModelSpec(**snakemake.params.model),
        tokens=snakemake.input.tokens,
        table=snakemake.output.table,
        costs=snakemake.output.costs,
        verification=snakemake.output.verification,
        kinds=snakemake.params.kinds,
        swaps=snakemake.params.swaps,
        sequences=snakemake.params.sequences,
        batch_size=snakemake.params.batch_size,
        tokens_per_chunk=snakemake.params.tokens_per_chunk,
        absolute=snakemake.params.absolute,
        relative=snakemake.params.relative,
        float64_mb=snakemake.params.float64_mb,
        resamples=snakemake.params.resamples,
        level=snakemake.params.level,
        seed=snakemake.params.seed,
        provenance=run.provenance,
    )
