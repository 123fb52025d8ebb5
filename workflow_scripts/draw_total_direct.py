"""Rule `draw_total_direct`."""

from neuronlab.figures.total_direct import draw
from neuronlab.jobs import job

with job(snakemake):
    draw(
        traces=snakemake.input.traces,
        selection=snakemake.input.selection,
        figures=snakemake.output.figures,
        model=snakemake.wildcards.model,
        text=snakemake.wildcards.text,
        replacement=snakemake.params.replacement,
    )
