"""Rule `draw_selected_neurons`."""

from neuronlab.figures.selected_neurons import draw
from neuronlab.jobs import job

with job(snakemake):
    draw(
        neurons=snakemake.input.neurons,
        null_space=snakemake.input.null_space,
        selection=snakemake.input.selection,
        figures=snakemake.output.figures,
        model=snakemake.wildcards.model,
    )
