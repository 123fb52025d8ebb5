"""Rule `draw_overview`."""

from neuronlab.figures.overview import draw
from neuronlab.jobs import job

with job(snakemake):
    draw(
        neurons=snakemake.input.neurons,
        singular_values=snakemake.input.singular_values,
        alignment=snakemake.input.alignment,
        null_space=snakemake.input.null_space,
        selection=snakemake.input.selection,
        traces=snakemake.input.traces,
        effects=snakemake.input.effects,
        figures=snakemake.output.figures,
        model=snakemake.wildcards.model,
        text=snakemake.wildcards.text,
        replacement=snakemake.params.replacement,
        level=snakemake.params.level,
    )
