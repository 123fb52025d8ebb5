"""Rule `draw_class_counts`."""

from neuronlab.figures.class_counts import draw
from neuronlab.jobs import job

with job(snakemake):
    draw(
        class_counts=snakemake.input.class_counts,
        funnel=snakemake.input.funnel,
        answers=snakemake.input.answers,
        figures=snakemake.output.figures,
        model=snakemake.wildcards.model,
        facts=snakemake.wildcards.facts,
        level=snakemake.params.level,
    )
