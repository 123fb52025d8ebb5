"""Rule `verify_ablation`."""

from neuronlab.jobs import job
from neuronlab.model_files import ModelSpec
from neuronlab.verification import verify_ablation

with job(snakemake) as run:
    verify_ablation(
        model=ModelSpec(**snakemake.params.model),
        tokens=snakemake.input.tokens,
        counts=snakemake.input.counts,
        statistics=snakemake.input.statistics,
        verification=snakemake.output.verification,
        include_padded=snakemake.params.include_padded,
        replacements=snakemake.params.replacements,
        kernel=snakemake.params.kernel,
        batch_size=snakemake.params.batch_size,
        tokens_per_chunk=snakemake.params.tokens_per_chunk,
        neurons_per_tile=snakemake.params.neurons_per_tile,
        pairs=snakemake.params.pairs,
        forward_pairs=snakemake.params.forward_pairs,
        absolute=snakemake.params.absolute,
        relative=snakemake.params.relative,
        memory_mb=snakemake.params.memory_mb,
        seed=snakemake.params.seed,
        provenance=run.provenance,
    )
