"""Rule `make_conflicts`."""

from neuronlab.conflicts import make_conflicts
from neuronlab.jobs import job
from neuronlab.model_files import ModelSpec

with job(snakemake) as run:
    make_conflicts(
        model=ModelSpec(**snakemake.params.model),
        facts=snakemake.input.facts,
        relations=snakemake.input.relations,
        answers=snakemake.input.answers,
        filtered=snakemake.input.filtered,
        counters=snakemake.output.counters,
        conflicts=snakemake.output.conflicts,
        funnel=snakemake.output.funnel,
        statistics=snakemake.output.statistics,
        filters=snakemake.params.filters,
        conflict=snakemake.params.conflict,
        counters_per_fact=snakemake.params.counters_per_fact,
        counters_by=snakemake.params.counters_by,
        bos=snakemake.params.bos,
        new_tokens=snakemake.params.new_tokens,
        max_prompts=snakemake.params.max_prompts,
        histogram_bins=snakemake.params.histogram_bins,
        batch_size=snakemake.params.batch_size,
        seed=snakemake.params.seed,
        provenance=run.provenance,
    )
