"""Rule `measure_local_attention`."""

from neuronlab.jobs import job
from neuronlab.local_attention import measure_local_attention
from neuronlab.model_files import ModelSpec

with job(snakemake) as run:
    measure_local_attention(
        model=ModelSpec(**snakemake.params.model),
        tokens=snakemake.input.tokens,
        local_attention=snakemake.output.local_attention,
        attention_bos=snakemake.output.attention_bos,
        local_attention_layers=snakemake.output.local_attention_layers,
        offsets=snakemake.params.offsets,
        sequences=snakemake.params.sequences,
        batch_size=snakemake.params.batch_size,
        resamples=snakemake.params.resamples,
        level=snakemake.params.level,
        seed=snakemake.params.seed,
        provenance=run.provenance,
    )
