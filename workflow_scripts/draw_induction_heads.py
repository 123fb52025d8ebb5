"""Rule `draw_induction_heads`."""

from neuronlab.figures.induction_heads import draw
from neuronlab.jobs import job

with job(snakemake):
    draw(
        heads=snakemake.input.heads,
        figures=snakemake.output.figures,
        model=snakemake.wildcards.model,
        text=snakemake.wildcards.text,
        threshold=snakemake.params.threshold,
        level=snakemake.params.level,
    )
