"""Rule `draw_token_frequency`."""

from neuronlab.figures.token_frequency import draw
from neuronlab.jobs import job

with job(snakemake):
    draw(
        token_frequency=snakemake.input.token_frequency,
        traces=snakemake.input.traces,
        selection=snakemake.input.selection,
        figures=snakemake.output.figures,
        model=snakemake.wildcards.model,
        text=snakemake.wildcards.text,
        level=snakemake.params.level,
    )
