"""Rule `draw_feature_neurons`."""

from neuronlab.figures.feature_neurons import draw
from neuronlab.jobs import job

with job(snakemake):
    draw(
        feature_neurons=snakemake.input.feature_neurons,
        feature_histograms=snakemake.input.feature_histograms,
        figures=snakemake.output.figures,
        model=snakemake.wildcards.model,
        level=snakemake.params.level,
    )
