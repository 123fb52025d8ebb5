"""Rule `draw_synthetic_controls`."""

from neuronlab.figures.synthetic_controls import draw
from neuronlab.jobs import job

with job(snakemake):
    draw(
        effects=snakemake.input.effects,
        synthetic=snakemake.input.synthetic,
        selection=snakemake.input.selection,
        figures=snakemake.output.figures,
        model=snakemake.wildcards.model,
        text=snakemake.wildcards.text,
        replacement=snakemake.params.replacement,
        level=snakemake.params.level,
    )
