"""Rule `ablate_synthetic`."""

from neuronlab.jobs import job
from neuronlab.model_files import ModelSpec
from neuronlab.synthetic import ablate_synthetic

with job(snakemake) as run:
    ablate_synthetic(
        model=ModelSpec(**snakemake.params.model),
        tokens=snakemake.input.tokens,
        counts=snakemake.input.counts,
        statistics=snakemake.input.statistics,
        selection=snakemake.input.selection,
        synthetic=snakemake.output.synthetic,
        include_padded=snakemake.params.include_padded,
        replacements=snakemake.params.replacements,
        kernel=snakemake.params.kernel,
        batch_size=snakemake.params.batch_size,
        tokens_per_chunk=snakemake.params.tokens_per_chunk,
        neurons_per_tile=snakemake.params.neurons_per_tile,
        draws=snakemake.params.draws,
        resamples=snakemake.params.resamples,
        level=snakemake.params.level,
        te_floor=snakemake.params.te_floor,
        seed=snakemake.params.seed,
        provenance=run.provenance,
    )
