"""Rule `draw_head_neurons`."""

from neuronlab.figures.head_neurons import draw
from neuronlab.jobs import job

with job(snakemake):
    draw(
        head_neurons=snakemake.input.head_neurons,
        selection=snakemake.input.selection,
        figures=snakemake.output.figures,
        model=snakemake.wildcards.model,
        text=snakemake.wildcards.text,
        level=snakemake.params.level,
    )
