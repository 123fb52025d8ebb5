"""Rule `draw_entropy_prediction`."""

from neuronlab.figures.entropy_prediction import draw
from neuronlab.jobs import job

with job(snakemake):
    draw(
        effects=snakemake.input.effects,
        selection=snakemake.input.selection,
        figures=snakemake.output.figures,
        model=snakemake.wildcards.model,
        text=snakemake.wildcards.text,
        replacement=snakemake.params.replacement,
    )
