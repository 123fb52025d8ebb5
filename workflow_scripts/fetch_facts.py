"""Rule `fetch_facts`."""

from neuronlab.fetching_facts import fetch_facts
from neuronlab.jobs import job

with job(snakemake):
    fetch_facts(
        key=snakemake.wildcards.facts,
        facts=snakemake.output.facts,
        relations=snakemake.output.relations,
        manifest=snakemake.output.manifest,
    )
