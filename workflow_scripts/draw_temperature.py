"""Rule `draw_temperature`."""

from neuronlab.figures.temperature import draw
from neuronlab.jobs import job

with job(snakemake):
    draw(
        temperature=snakemake.input.temperature,
        figures=snakemake.output.figures,
        model=snakemake.wildcards.model,
        text=snakemake.wildcards.text,
        level=snakemake.params.level,
    )
