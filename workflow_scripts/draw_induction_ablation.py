"""Rule `draw_induction_ablation`."""

from neuronlab.figures.induction_ablation import draw
from neuronlab.jobs import job

with job(snakemake):
    draw(
        ablation=snakemake.input.ablation,
        tests=snakemake.input.tests,
        selection=snakemake.input.selection,
        figures=snakemake.output.figures,
        model=snakemake.wildcards.model,
        text=snakemake.wildcards.text,
        kind=snakemake.wildcards.kind,
        level=snakemake.params.level,
    )
