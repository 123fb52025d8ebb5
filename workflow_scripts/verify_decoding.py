"""Rule `verify_decoding`."""

from neuronlab.decoding_verification import verify_decoding
from neuronlab.jobs import job
from neuronlab.model_files import ModelSpec

with job(snakemake) as run:
    verify_decoding(
        model=ModelSpec(**snakemake.params.model),
        conflicts=snakemake.input.conflicts,
        statistics=snakemake.input.statistics,
        sets=snakemake.input.sets,
        variants=snakemake.input.variants,
        decoded=snakemake.input.decoded,
        continuations=snakemake.input.continuations,
        states=snakemake.input.states,
        verification=snakemake.output.verification,
        pairs=snakemake.params.pairs,
        tie=snakemake.params.tie,
        absolute=snakemake.params.absolute,
        relative=snakemake.params.relative,
        float64_mb=snakemake.params.float64_mb,
        new_tokens=snakemake.params.new_tokens,
        seed=snakemake.params.seed,
        provenance=run.provenance,
    )
