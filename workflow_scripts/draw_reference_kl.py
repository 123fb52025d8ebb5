"""Rule `draw_reference_kl`."""

from neuronlab.figures.reference_kl import draw
from neuronlab.jobs import job

with job(snakemake):
    draw(
        reference_kl=snakemake.input.reference_kl,
        figures=snakemake.output.figures,
        model=snakemake.wildcards.model,
        text=snakemake.wildcards.text,
        level=snakemake.params.level,
    )
