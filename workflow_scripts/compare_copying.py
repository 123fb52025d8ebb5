"""Rule `compare_copying`."""

from neuronlab.copying_comparison import compare_copying
from neuronlab.jobs import job
from neuronlab.model_files import ModelSpec

with job(snakemake):
    compare_copying(
        models={name: ModelSpec(**spec) for name, spec in snakemake.params.models.items()},
        facts=snakemake.wildcards.facts,
        class_counts=snakemake.input.class_counts,
        scores=snakemake.input.scores,
        control_tests=snakemake.input.control_tests,
        tables=snakemake.output.tables,
        level=snakemake.params.level,
    )
