"""Rule `draw_induction_scores`."""

from neuronlab.figures.induction_scores import draw
from neuronlab.jobs import job

with job(snakemake):
    draw(
        synthetic=snakemake.input.synthetic,
        natural=snakemake.input.natural,
        selection=snakemake.input.selection,
        figures=snakemake.output.figures,
        model=snakemake.wildcards.model,
        text=snakemake.wildcards.text,
        level=snakemake.params.level,
    )
