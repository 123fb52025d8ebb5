"""Rule `make_demo_world`."""

from neuronlab.demo.world_files import write_world
from neuronlab.jobs import job

with job(snakemake) as run:
    write_world(
        documents_path=snakemake.output.documents,
        facts_path=snakemake.output.facts,
        counts_path=snakemake.output.counts,
        provenance=run.provenance,
    )
