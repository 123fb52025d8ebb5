"""Rule `draw_head_ablation`."""

from neuronlab.figures.head_ablation import draw
from neuronlab.jobs import job

with job(snakemake):
    draw(
        head_ablation=snakemake.input.head_ablation,
        selection=snakemake.input.selection,
        figures=snakemake.output.figures,
        model=snakemake.wildcards.model,
        text=snakemake.wildcards.text,
        level=snakemake.params.level,
    )
