"""Rule `draw_singular_values`."""

from neuronlab.figures.singular_values import draw
from neuronlab.jobs import job

with job(snakemake):
    draw(
        singular_values=snakemake.input.singular_values,
        alignment=snakemake.input.alignment,
        null_space=snakemake.input.null_space,
        selection=snakemake.input.selection,
        figures=snakemake.output.figures,
        model=snakemake.wildcards.model,
    )
