"""Rule `overlay_layer_neuron_counts`."""

from neuronlab.figures.layer_neuron_counts import draw
from neuronlab.jobs import job

with job(snakemake):
    draw(
        vocabulary_counts=snakemake.input.vocabulary_counts,
        figures=snakemake.output.figures,
        model=snakemake.params.model,
        level=snakemake.params.level,
    )
