"""Rule `draw_unigram_kl`."""

from neuronlab.figures.unigram_kl import draw
from neuronlab.jobs import job

with job(snakemake):
    draw(
        baseline=snakemake.input.baseline,
        figures=snakemake.output.figures,
        model=snakemake.wildcards.model,
        text=snakemake.wildcards.text,
        resamples=snakemake.params.resamples,
        level=snakemake.params.level,
        seed=snakemake.params.seed,
    )
