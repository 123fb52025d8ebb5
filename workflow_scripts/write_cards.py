"""Rule `write_cards`."""

from neuronlab.cards import write_cards
from neuronlab.jobs import job

with job(snakemake):
    write_cards(
        neurons=snakemake.input.neurons,
        null_space=snakemake.input.null_space,
        selection=snakemake.input.selection,
        boosted=snakemake.input.boosted,
        strings=snakemake.input.strings,
        tokens=snakemake.input.tokens,
        statistics=snakemake.input.statistics,
        effects=snakemake.input.effects,
        traces=snakemake.input.traces,
        frequency_cosine=snakemake.input.frequency_cosine,
        cards=snakemake.output.cards,
        model=snakemake.wildcards.model,
        text=snakemake.wildcards.text,
        replacement=snakemake.params.replacement,
        seed=snakemake.params.seed,
    )
