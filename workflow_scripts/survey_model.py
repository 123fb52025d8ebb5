"""Rule `survey_model`."""

from neuronlab.documents import TextSpec
from neuronlab.jobs import job
from neuronlab.model_files import ModelSpec
from neuronlab.survey import survey_model

with job(snakemake) as run:
    survey_model(
        model=ModelSpec(**snakemake.params.model),
        text=TextSpec(**snakemake.params.text),
        documents=snakemake.input.documents,
        count_source=snakemake.input.counts,
        neurons=snakemake.output.neurons,
        summary=snakemake.output.summary,
        spectrum=snakemake.output.spectrum,
        sequences=snakemake.params.sequences,
        null_space_k=snakemake.params.null_space_k,
        include_padded=snakemake.params.include_padded,
        heads_length=snakemake.params.heads_length,
        heads_sequences=snakemake.params.heads_sequences,
        kernel=snakemake.params.kernel,
        batch_size=snakemake.params.batch_size,
        tokens_per_chunk=snakemake.params.tokens_per_chunk,
        neurons_per_tile=snakemake.params.neurons_per_tile,
        resamples=snakemake.params.resamples,
        level=snakemake.params.level,
        te_floor=snakemake.params.te_floor,
        seed=snakemake.params.seed,
        provenance=run.provenance,
    )
