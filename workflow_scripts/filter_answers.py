"""Rule `filter_answers`."""

from neuronlab.answer_filters import filter_answers
from neuronlab.jobs import job

with job(snakemake) as run:
    filter_answers(
        facts=snakemake.input.facts,
        relations=snakemake.input.relations,
        answers=snakemake.input.answers,
        filtered=snakemake.output.filtered,
        filters=snakemake.params.filters,
        similarity=snakemake.params.similarity,
        provenance=run.provenance,
    )
