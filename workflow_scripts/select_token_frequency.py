"""Rule `select_token_frequency`."""

from neuronlab.final_states import AblationInputs
from neuronlab.jobs import job
from neuronlab.model_files import ModelSpec
from neuronlab.token_frequency import select_token_frequency

with job(snakemake) as run:
    select_token_frequency(
        inputs=AblationInputs(
            model=ModelSpec(**snakemake.params.model),
            tokens=snakemake.input.tokens,
            counts=snakemake.input.counts,
            statistics=snakemake.input.statistics,
            **snakemake.params.ablation,
        ),
        shards=snakemake.input.shards,
        frequency_cosine=snakemake.input.frequency_cosine,
        neurons=snakemake.input.neurons,
        weights_selection=snakemake.input.weights_selection,
        token_frequency=snakemake.output.token_frequency,
        random_directions=snakemake.output.random_directions,
        selection=snakemake.output.selection,
        replacement=snakemake.params.ablation["replacements"][0],
        outcome=snakemake.params.outcome,
        candidates=snakemake.params.candidates,
        directions=snakemake.params.directions,
        tokens=snakemake.params.tokens,
        count=snakemake.params.largest,
        control_sets=snakemake.params.control_sets,
        resamples=snakemake.params.resamples,
        te_floor=snakemake.params.te_floor,
        published=snakemake.params.published,
        level=snakemake.params.error_rate,
        interval_level=snakemake.params.level,
        provenance=run.provenance,
    )
