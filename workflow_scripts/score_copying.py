"""Rule `score_copying`."""

from neuronlab.copying_scores import score_copying
from neuronlab.jobs import job

with job(snakemake) as run:
    score_copying(
        facts=snakemake.input.facts,
        conflicts=snakemake.input.conflicts,
        variants=snakemake.input.variants,
        decoded=snakemake.input.decoded,
        continuations=snakemake.input.continuations,
        states=snakemake.input.states,
        verification=snakemake.input.verification,
        class_counts=snakemake.output.class_counts,
        transitions=snakemake.output.transitions,
        scores=snakemake.output.scores,
        control_tests=snakemake.output.control_tests,
        relations=snakemake.output.relations,
        doses=snakemake.output.doses,
        flips=snakemake.output.flips,
        flip_prediction=snakemake.output.flip_prediction,
        examples=snakemake.output.examples,
        replacement=snakemake.params.replacement,
        examples_per_set=snakemake.params.examples_per_set,
        resamples=snakemake.params.resamples,
        level=snakemake.params.level,
        seed=snakemake.params.seed,
        provenance=run.provenance,
    )
