"""Rule `overlay_local_attention`."""

from neuronlab.figures.local_attention import draw
from neuronlab.jobs import job

with job(snakemake):
    draw(
        local_attention=snakemake.input.local_attention,
        local_attention_layers=snakemake.input.local_attention_layers,
        attention_bos=snakemake.input.attention_bos,
        figures=snakemake.output.figures,
        text=snakemake.wildcards.text,
        model=snakemake.params.model,
        level=snakemake.params.level,
    )
