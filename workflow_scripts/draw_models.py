"""Rule `draw_models`."""

from neuronlab.figures.models import draw
from neuronlab.jobs import job

with job(snakemake):
    draw(
        neurons=snakemake.input.neurons,
        summary=snakemake.input.summary,
        figures=snakemake.output.figures,
        comparison=snakemake.wildcards.comparison,
        text=snakemake.params.text,
        level=snakemake.params.level,
    )
