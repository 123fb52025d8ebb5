"""Rule `draw_copying_bars`."""

from neuronlab.figures.copying_bars import draw
from neuronlab.jobs import job

with job(snakemake):
    draw(
        scores=snakemake.input.scores,
        control_tests=snakemake.input.control_tests,
        figures=snakemake.output.figures,
        model=snakemake.wildcards.model,
        facts=snakemake.wildcards.facts,
        level=snakemake.params.level,
    )
