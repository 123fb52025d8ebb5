"""Rule `draw_lens`."""

from neuronlab.figures.lens import draw
from neuronlab.jobs import job

with job(snakemake):
    draw(
        lens=snakemake.input.lens,
        lens_documents=snakemake.input.lens_documents,
        figures=snakemake.output.figures,
        model=snakemake.wildcards.model,
        text=snakemake.wildcards.text,
        level=snakemake.params.level,
    )
