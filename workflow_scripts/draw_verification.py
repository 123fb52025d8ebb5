"""Rule `draw_verification`."""

from neuronlab.figures.verification import draw
from neuronlab.jobs import job

with job(snakemake):
    draw(
        verification=snakemake.input.verification,
        figures=snakemake.output.figures,
        model=snakemake.wildcards.model,
        text=snakemake.wildcards.text,
    )
