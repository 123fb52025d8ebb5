"""Rule `read_facts`."""

from neuronlab.fact_sources import read_facts
from neuronlab.jobs import job

with job(snakemake) as run:
    read_facts(
        key=snakemake.wildcards.facts,
        path=snakemake.input.files[0],
        relations_path=snakemake.input.files[1] if len(snakemake.input.files) > 1 else None,
        facts=snakemake.output.facts,
        relations=snakemake.output.relations,
        source=snakemake.params.source,
        max_facts=snakemake.params.max_facts,
        seed=snakemake.params.seed,
        provenance=run.provenance,
    )
