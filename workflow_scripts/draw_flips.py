"""Rule `draw_flips`."""

from neuronlab.figures.flips import draw
from neuronlab.jobs import job

with job(snakemake):
    draw(
        flips=snakemake.input.flips,
        flip_prediction=snakemake.input.flip_prediction,
        figures=snakemake.output.figures,
        model=snakemake.wildcards.model,
        facts=snakemake.wildcards.facts,
        replacement=snakemake.params.replacement,
        level=snakemake.params.level,
    )
