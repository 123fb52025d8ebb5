"""Rule `draw_stages`."""

from neuronlab.figures.stages import draw
from neuronlab.jobs import job

with job(snakemake):
    draw(
        stages=snakemake.input.stages,
        interventions=snakemake.input.interventions or None,
        lens=snakemake.input.lens or None,
        vocabulary_counts=snakemake.input.vocabulary_counts or None,
        local_attention_layers=snakemake.input.local_attention_layers or None,
        figures=snakemake.output.figures,
        model=snakemake.wildcards.model,
        text=snakemake.wildcards.text,
        level=snakemake.params.level,
    )
