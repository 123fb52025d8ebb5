"""Rule `draw_norm_logitvar_layers`."""

from neuronlab.figures.norm_logitvar_layers import draw
from neuronlab.jobs import job

with job(snakemake):
    draw(
        neurons=snakemake.input.neurons,
        selection=snakemake.input.selection,
        figures=snakemake.output.figures,
        model=snakemake.wildcards.model,
    )
