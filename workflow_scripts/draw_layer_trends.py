"""Rule `draw_layer_trends`."""

from neuronlab.figures.layer_trends import draw
from neuronlab.jobs import job

with job(snakemake):
    draw(
        neurons=snakemake.input.neurons,
        null_space=snakemake.input.null_space,
        selection=snakemake.input.selection,
        figures=snakemake.output.figures,
        model=snakemake.wildcards.model,
    )
