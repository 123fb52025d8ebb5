"""Rule `train_demo_model`."""

from pathlib import Path

from neuronlab.demo.training import train
from neuronlab.jobs import job

with job(snakemake):
    train(
        seed=int(snakemake.wildcards.seed),
        output_directory=Path(snakemake.output.weights).parents[1],
        steps=snakemake.params.steps,
        threads=snakemake.params.threads,
    )
