"""Rule `write_cards`."""

from neuronlab.cards import write_cards
from neuronlab.jobs import job

# A part of the study that is switched off gives no input.
KINDS = {"synthetic": snakemake.input.synthetic, "natural": snakemake.input.natural}

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
        token_frequency=snakemake.input.token_frequency or None,
        frequency_outcome=snakemake.params.frequency_outcome,
        temperature=snakemake.input.temperature or None,
        dose_response=snakemake.input.dose_response or None,
        head_neurons=snakemake.input.head_neurons or None,
        scores={kind: path for kind, path in KINDS.items() if path},
        cards=snakemake.output.cards,
        model=snakemake.wildcards.model,
        text=snakemake.wildcards.text,
        replacement=snakemake.params.replacement,
        seed=snakemake.params.seed,
    )
