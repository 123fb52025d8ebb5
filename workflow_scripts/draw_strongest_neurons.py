"""Rule `draw_strongest_neurons`."""

from neuronlab.figures.strongest_neurons import draw
from neuronlab.jobs import job

with job(snakemake):
    draw(
        vocabulary_neurons=snakemake.input.vocabulary_neurons,
        figures=snakemake.output.figures,
        model=snakemake.wildcards.model,
    )
