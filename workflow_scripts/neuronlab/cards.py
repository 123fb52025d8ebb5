"""Rule `write_cards`: one page with a card for each selected neuron. Reads tables only; never imports torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl

from neuronlab.cards_data import make_cards
from neuronlab.cards_html import page
from neuronlab.cards_studies import StudyTables
from neuronlab.tables import atomic_path, read_table
from neuronlab.traced_sample import sample_of


class CardsError(ValueError):
    """Tables that do not hold what the cards are to show."""


def _of_replacement(frame: pl.DataFrame, replacement: str, path: str | Path) -> pl.DataFrame:
    present = frame["replacement"].unique().sort().to_list()
    if present and replacement not in present:
        raise CardsError(
            f"{path}: holds no replacement '{replacement}', only {', '.join(present)}; "
            "name one of these, or add it to the config key ablation.replacements"
        )
    return frame.filter(pl.col("replacement") == replacement)


def _optional(path: str | Path | None, schema: str) -> pl.DataFrame | None:
    return read_table(path, schema) if path else None


def write_cards(
    *,
    neurons: str | Path,
    null_space: str | Path,
    selection: str | Path | Sequence[str | Path],
    boosted: str | Path,
    strings: str | Path,
    tokens: str | Path,
    statistics: str | Path,
    effects: str | Path,
    traces: str | Path,
    cards: str | Path,
    model: str,
    text: str,
    replacement: str = "mean",
    frequency_cosine: str | Path | None = None,
    token_frequency: str | Path | None = None,
    frequency_outcome: str | None = None,
    temperature: str | Path | None = None,
    dose_response: str | Path | None = None,
    head_neurons: str | Path | None = None,
    scores: Mapping[str, str | Path] | None = None,
    sets: Sequence[str] | None = None,
    seed: int = 0,
) -> None:
    """Write `cards` (HTML, self-contained) from the tables of the same names.

    Args:
        selection: one table or several (weight-based, effect-based).
        boosted, strings, statistics: tables `boosted_tokens`, `token_strings`, `activation_statistics`.
        replacement: which replacement value effects and excerpts are about.
        frequency_cosine, token_frequency, temperature, dose_response, head_neurons: shown where given.
        frequency_outcome: the effect that `m_freq` of the table `token_frequency` is about.
        scores: table `induction_scores` by kind of repetition (synthetic, natural); may be empty.
        sets: make cards of these sets only; all selections if not given.
        seed: of the excerpts drawn at random.

    Raises:
        CardsError: if the tables hold no such replacement.
        TableError: for a missing or damaged table.
    """
    selections = [selection] if isinstance(selection, str | Path) else list(selection)
    effect_table = _of_replacement(read_table(effects, "effects"), replacement, effects)
    temperatures = _optional(temperature, "temperature")
    made = make_cards(
        neurons=read_table(neurons, "neurons"),
        null_space=read_table(null_space, "null_space"),
        selection=pl.concat([read_table(path, "selection") for path in selections]),
        boosted_tokens=read_table(boosted, "boosted_tokens"),
        token_strings=read_table(strings, "token_strings"),
        tokens=read_table(tokens, "tokens"),
        activation_statistics=read_table(statistics, "activation_statistics"),
        effects=effect_table,
        traces=_of_replacement(read_table(traces, "traces"), replacement, traces),
        frequency_cosine=_optional(frequency_cosine, "frequency_cosine"),
        studies=StudyTables(
            token_frequency=_optional(token_frequency, "token_frequency"),
            frequency_outcome=frequency_outcome,
            # The joint ablation is made for one replacement value only: if for another one, it has nothing to show.
            temperature=None if temperatures is None else temperatures.filter(pl.col("replacement") == replacement),
            dose_response=_optional(dose_response, "dose_response"),
            head_neurons=_optional(head_neurons, "head_neurons"),
            scores={kind: read_table(path, "induction_scores") for kind, path in (scores or {}).items()},
        ),
        sets=sets,
        seed=seed,
    )
    facts = [
        f"activation replaced by its {replacement.replace('_', ' ')}"
        if replacement == "mean"
        else f"replaced by {replacement}"
    ]
    if len(effect_table):
        facts.append(f"{effect_table['n_tokens'].max():,} tokens of {effect_table['n_documents'].max():,} documents")
    if sample := sample_of(traces):
        facts.append(f"excerpts and their colours from a sample: {sample}")
    used = [neurons, null_space, statistics, effects, traces]
    used += [path for path in (token_frequency, temperature, dose_response, head_neurons) if path]
    names = [
        *(Path(path).name for path in used),
        *(f"{kind} {Path(path).name}" for kind, path in (scores or {}).items()),
    ]
    source = (
        f"Made from {', '.join(names)}. Losses, entropies and divergences are in nats; effects are after minus before."
    )
    html = page(made, model=model, text=text, facts=facts, source=source)
    with atomic_path(cards) as temporary:
        temporary.write_text(html, encoding="utf-8")
