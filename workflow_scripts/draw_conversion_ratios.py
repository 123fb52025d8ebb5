"""Rule `draw_conversion_ratios`."""

from neuronlab.figures.conversion_ratios import draw
from neuronlab.jobs import job

with job(snakemake):
    draw(
        scores=snakemake.input.scores,
        control_tests=snakemake.input.control_tests,
        figures=snakemake.output.figures,
        model=snakemake.wildcards.model,
        facts=snakemake.wildcards.facts,
        replacement=snakemake.params.replacement,
        level=snakemake.params.level,
    )
