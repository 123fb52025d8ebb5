"""Rule `draw_subjoiner_examples`."""

from neuronlab.figures.subjoiner_examples import draw
from neuronlab.jobs import job

with job(snakemake):
    draw(
        subjoiner_examples=snakemake.input.subjoiner_examples,
        figures=snakemake.output.figures,
        model=snakemake.wildcards.model,
        text=snakemake.wildcards.text,
    )
