"""Rule `draw_example_passage`."""

from neuronlab.figures.example_passage import draw
from neuronlab.jobs import job

with job(snakemake):
    draw(
        traces=snakemake.input.traces,
        tokens=snakemake.input.tokens,
        strings=snakemake.input.strings,
        selection=snakemake.input.selection,
        figures=snakemake.output.figures,
        model=snakemake.wildcards.model,
        text=snakemake.wildcards.text,
        replacement=snakemake.params.replacement,
    )
