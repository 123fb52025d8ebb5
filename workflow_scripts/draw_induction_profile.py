"""Rule `draw_induction_profile`."""

from neuronlab.figures.induction_profile import draw
from neuronlab.jobs import job

with job(snakemake):
    draw(
        profile=snakemake.input.profile,
        selection=snakemake.input.selection,
        figures=snakemake.output.figures,
        model=snakemake.wildcards.model,
        text=snakemake.wildcards.text,
        kind=snakemake.wildcards.kind,
        level=snakemake.params.level,
    )
