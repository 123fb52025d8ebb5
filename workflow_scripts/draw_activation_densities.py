"""Rule `draw_activation_densities`."""

from neuronlab.figures.activation_densities import draw
from neuronlab.jobs import job

with job(snakemake):
    draw(
        statistics=snakemake.input.statistics,
        sets=snakemake.input.sets,
        figures=snakemake.output.figures,
        model=snakemake.wildcards.model,
        facts=snakemake.wildcards.facts,
        replacements=snakemake.params.replacements,
        seed=snakemake.params.seed,
    )
