"""Rule `draw_subjoiners`."""

from neuronlab.figures.subjoiners import draw
from neuronlab.jobs import job

with job(snakemake):
    draw(
        subjoiners=snakemake.input.subjoiners,
        figures=snakemake.output.figures,
        model=snakemake.wildcards.model,
        text=snakemake.wildcards.text,
        level=snakemake.params.level,
    )
