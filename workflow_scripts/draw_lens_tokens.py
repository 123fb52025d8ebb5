"""Rule `draw_lens_tokens`."""

from neuronlab.figures.lens_tokens import draw
from neuronlab.jobs import job

with job(snakemake):
    draw(
        lens_tokens=snakemake.input.lens_tokens,
        figures=snakemake.output.figures,
        model=snakemake.wildcards.model,
        text=snakemake.wildcards.text,
    )
