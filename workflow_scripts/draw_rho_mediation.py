"""Rule `draw_rho_mediation`."""

from neuronlab.figures.rho_mediation import draw
from neuronlab.jobs import job

with job(snakemake):
    draw(
        effects=snakemake.input.effects,
        null_space=snakemake.input.null_space,
        selection=snakemake.input.selection,
        figures=snakemake.output.figures,
        model=snakemake.wildcards.model,
        text=snakemake.wildcards.text,
        replacement=snakemake.params.replacement,
        level=snakemake.params.level,
    )
