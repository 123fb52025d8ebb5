"""Rule `draw_token_effects`."""

from neuronlab.figures.token_effects import draw
from neuronlab.jobs import job

with job(snakemake):
    draw(
        traces=snakemake.input.traces,
        selection=snakemake.input.selection,
        figures=snakemake.output.figures,
        model=snakemake.wildcards.model,
        text=snakemake.wildcards.text,
        replacement=snakemake.params.replacement,
        seed=snakemake.params.seed,
    )
