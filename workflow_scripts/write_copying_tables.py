"""Rule `write_copying_tables`."""

from neuronlab.copying_tables import write_copying_tables
from neuronlab.jobs import job

with job(snakemake):
    write_copying_tables(
        model=snakemake.wildcards.model,
        facts=snakemake.wildcards.facts,
        class_counts=snakemake.input.class_counts,
        transitions=snakemake.input.transitions,
        scores=snakemake.input.scores,
        control_tests=snakemake.input.control_tests,
        sets=snakemake.input.sets,
        neurons=snakemake.input.neurons,
        null_space=snakemake.input.null_space,
        examples=snakemake.input.examples,
        tables=snakemake.output.tables,
        replacement=snakemake.params.replacement,
        level=snakemake.params.level,
    )
