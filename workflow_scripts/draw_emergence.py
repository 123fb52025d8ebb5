"""Rule `draw_emergence`."""

from neuronlab.figures.emergence import draw
from neuronlab.jobs import job

with job(snakemake):
    draw(
        neurons=snakemake.input.neurons,
        summary=snakemake.input.summary,
        selections=snakemake.input.selections,
        figures=snakemake.output.figures,
        comparison=snakemake.wildcards.comparison,
        text=snakemake.params.text,
        reference=snakemake.params.reference,
        level=snakemake.params.level,
    )
