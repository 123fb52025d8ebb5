"""Rule `compare_published_copying`."""

from neuronlab.jobs import job
from neuronlab.published_copying import compare_published_copying

with job(snakemake) as run:
    compare_published_copying(
        scores=snakemake.input.scores,
        control_tests=snakemake.input.control_tests,
        class_counts=snakemake.input.class_counts,
        statistics=snakemake.input.statistics,
        sets=snakemake.input.sets,
        published=snakemake.output.published,
        model_name=snakemake.params.model_name,
        provenance=run.provenance,
    )
