"""Rule `answer_queries`."""

from neuronlab.answers import answer_queries
from neuronlab.jobs import job
from neuronlab.model_files import ModelSpec

with job(snakemake) as run:
    answer_queries(
        model=ModelSpec(**snakemake.params.model),
        facts=snakemake.input.facts,
        relations=snakemake.input.relations,
        answers=snakemake.output.answers,
        template=snakemake.params.template,
        bos=snakemake.params.bos,
        new_tokens=snakemake.params.new_tokens,
        batch_size=snakemake.params.batch_size,
        provenance=run.provenance,
    )
