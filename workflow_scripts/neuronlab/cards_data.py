"""What a neuron card tells, worked out from the tables: measures and ranks, effects, excerpts. No HTML here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl

from neuronlab.cards_ranks import Row, percentile
from neuronlab.cards_studies import Studies, StudyTables

OUTCOMES = ("loss", "entropy", "kl")
BEFORE, AFTER = 22, 14  # tokens shown before and after an excerpt's token
TOP_ACTIVATION, TOP_ENTROPY, AT_RANDOM = 4, 3, 2


@dataclass(frozen=True)
class Measure:
    """A number with its place among the layer's neurons: per cent of the others that lie below it."""

    name: str
    value: float
    percentile: float | None
    meaning: str


@dataclass(frozen=True)
class Token:
    """A token of an excerpt; activation and changes are missing where the position does not count."""

    text: str
    activation: float | None = None
    entropy_change: float | None = None
    loss_change: float | None = None
    peak: bool = False


@dataclass(frozen=True)
class Excerpt:
    """A stretch of one sequence around the position that it was chosen for."""

    why: str
    document: int
    sequence: int
    position: int
    tokens: list[Token]


@dataclass(frozen=True)
class Card:
    """Everything on one neuron's card. Parts whose tables lack the neuron are empty or missing."""

    layer: int
    neuron: int
    sets: list[str]
    measures: list[Measure]
    promoted: list[tuple[int, str, float]]
    suppressed: list[tuple[int, str, float]]
    activation: Row | None
    histogram: list[int]
    effects: Row | None
    effect_ranks: dict[str, float]
    layer_effects: dict[str, tuple[float, float]]  # measure -> median and 90 % quantile of the layer
    excerpts: list[Excerpt] = field(default_factory=list)
    activation_scale: float = 0.0
    entropy_scale: float = 0.0
    studies: Studies = field(default_factory=Studies)

    @property
    def name(self) -> str:
        return f"{self.layer}.{self.neuron}"


def _measure(frame: pl.DataFrame, neuron: int, column: str, name: str, meaning: str) -> Measure | None:
    own = frame.filter(pl.col("neuron") == neuron)[column].drop_nulls()
    if not len(own):
        return None
    others = frame.filter(pl.col("neuron") != neuron)[column].drop_nulls().to_numpy()
    return Measure(name, float(own[0]), percentile(others, float(own[0])), meaning)


def weight_measures(
    neurons: pl.DataFrame,
    null_space: pl.DataFrame,
    frequency_cosine: pl.DataFrame | None,
    layer: int,
    neuron: int,
) -> list[Measure]:
    """Measures of the weights with their rank in the layer; rho once for every k."""
    here = neurons.filter(pl.col("layer") == layer)
    found = [
        _measure(here, neuron, "norm", "norm", "length of the output weights w_out"),
        _measure(here, neuron, "logit_var", "LogitVar", "variance over the vocabulary of cos(w_out, W_U)"),
    ]
    sizes = null_space.select("k", "k_rule").unique().sort("k_rule", "k", descending=[True, False])
    for k, rule in sizes.iter_rows():
        rho = null_space.filter((pl.col("layer") == layer) & (pl.col("k") == k) & (pl.col("k_rule") == rule))
        meaning = f"share of |w_out| in the null space of W_U, its last {k} directions ({rule} size)"
        found.append(_measure(rho, neuron, "rho", f"rho, k = {k}", meaning))
    gain = "|w_out W_U| against a direction of average gain, which has 1; needs no k"
    found.append(_measure(here, neuron, "unembed_gain", "gain", gain))
    if frequency_cosine is not None:
        rows = frequency_cosine.filter(pl.col("layer") == layer)
        meaning = "cosine of w_out W_U with the centred log-unigram direction"
        found.append(_measure(rows, neuron, "cosine", "frequency cosine", meaning))
    found.append(_measure(here, neuron, "norm_in", "input norm", "length of the input weights w_in"))
    found.append(
        _measure(here, neuron, "vocab_kurt", "kurtosis", "of the cosine profile over the vocabulary; 3 if Gaussian")
    )
    return [measure for measure in found if measure is not None]


def boosted(
    table: pl.DataFrame, layer: int, neuron: int
) -> tuple[list[tuple[int, str, float]], list[tuple[int, str, float]]]:
    """Promoted and suppressed tokens as (id, text, cosine), the extreme first."""
    here = table.filter((pl.col("layer") == layer) & (pl.col("neuron") == neuron))
    top = here.filter(pl.col("rank") >= 0).sort("rank")
    bottom = here.filter(pl.col("rank") < 0).sort("rank", descending=True)
    columns = ["token", "token_string", "cosine"]
    return list(top.select(columns).iter_rows()), list(bottom.select(columns).iter_rows())


def effect_summary(
    effects: pl.DataFrame, layer: int, neuron: int
) -> tuple[Row | None, dict[str, float], dict[str, tuple[float, float]]]:
    """The neuron's row of effects; percentiles of its sizes; the layer's median and 90 % quantile of the same."""
    here = effects.filter(pl.col("layer") == layer)
    own = here.filter(pl.col("neuron") == neuron)
    if not len(own):
        return None, {}, {}
    row = own.row(0, named=True)
    names = [f"{kind}_{outcome}" for kind in ("te", "de", "m") for outcome in OUTCOMES] + ["prediction_change"]
    ranks, layers = {}, {}
    for name in names:
        values = here[name].drop_nulls().to_numpy()
        if len(values):
            layers[name] = (float(np.median(values)), float(np.quantile(values, 0.9)))
        if row[name] is not None:
            others = here.filter(pl.col("neuron") != neuron)[name].drop_nulls().to_numpy()
            ranks[name] = percentile(others, float(row[name]))
    return row, ranks, layers


def _peaks(trace: pl.DataFrame, seed: int) -> list[tuple[str, int, int]]:
    """(why, sequence, position) of the excerpts: the strongest of different sequences, and some at random."""
    found: list[tuple[str, int, int]] = []
    used: set[int] = set()

    def take(ordered: pl.DataFrame, why: str, number: int) -> None:
        firsts = ordered.unique("sequence", keep="first", maintain_order=True)
        for sequence, position in firsts.select("sequence", "position").iter_rows():
            if number == 0:
                return
            if sequence not in used:
                used.add(sequence)
                found.append((why, sequence, position))
                number -= 1

    # Ties are broken by place, so that the choice does not depend on the order of rows.
    place = trace.sort("sequence", "position")
    take(place.sort("activation", descending=True, maintain_order=True), "largest activation", TOP_ACTIVATION)
    size = pl.col("entropy_total").abs()
    take(place.sort(size, descending=True, maintain_order=True), "largest change of entropy", TOP_ENTROPY)
    order = np.random.default_rng(seed).permutation(len(place))
    take(place[order], "drawn at random", AT_RANDOM)
    return found


def excerpts(
    trace: pl.DataFrame, tokens: pl.DataFrame, strings: Sequence[str], *, seed: int = 0
) -> tuple[list[Excerpt], float, float]:
    """Stretches of text around a neuron's strongest tokens, and the values at which shading is full.

    Args:
        trace: table `traces`, this neuron and one replacement.
        tokens: table `tokens`; gives the text around positions that do not count.
        strings: token id -> text.

    Returns:
        The excerpts; the largest |activation|; the 99 % quantile of |change of entropy| (nats), both over the
        whole trace.
    """
    if not len(trace):
        return [], 0.0, 0.0
    values = {
        (row[0], row[1]): row[2:]
        for row in trace.select("sequence", "position", "activation", "entropy_total", "loss_total").iter_rows()
    }
    found = []
    for why, sequence, position in _peaks(trace, seed):
        row = tokens.filter(pl.col("sequence") == sequence).row(0, named=True)
        ids, documents = row["tokens"], row["documents"]
        span = range(max(0, position - BEFORE), min(len(ids), position + AFTER + 1))
        shaded = [
            Token(_spelled(strings, ids[i]), *values.get((sequence, i), (None, None, None)), peak=i == position)
            for i in span
        ]
        found.append(Excerpt(why, documents[position], sequence, position, shaded))
    activation = float(trace["activation"].abs().max() or 0.0)
    entropy = float(trace["entropy_total"].abs().quantile(0.99, "linear") or 0.0)
    return found, activation, entropy


def _spelled(strings: Sequence[str], token: int) -> str:
    return strings[token] if 0 <= token < len(strings) else f"<{token}>"


def make_cards(
    *,
    neurons: pl.DataFrame,
    null_space: pl.DataFrame,
    selection: pl.DataFrame,
    boosted_tokens: pl.DataFrame,
    token_strings: pl.DataFrame,
    tokens: pl.DataFrame,
    activation_statistics: pl.DataFrame,
    effects: pl.DataFrame,
    traces: pl.DataFrame,
    frequency_cosine: pl.DataFrame | None = None,
    studies: StudyTables | None = None,
    sets: Sequence[str] | None = None,
    seed: int = 0,
) -> list[Card]:
    """One card per selected neuron, by set and rank; a neuron of several sets gets one card that names them all.

    Args:
        effects, traces: of one replacement value.
        studies: tables of the optional parts.
        sets: the sets to make cards of; all selections if not given.
    """
    chosen = selection.filter(pl.col("kind") == "selection")
    if sets:
        chosen = chosen.filter(pl.col("set").is_in(sets))
    members = chosen.group_by("layer", "neuron", maintain_order=True).agg(pl.col("set").unique(maintain_order=True))
    strings = token_strings.sort("token")["string"].to_list()
    cards = []
    for layer, neuron, names in members.iter_rows():
        here = (pl.col("layer") == layer) & (pl.col("neuron") == neuron)
        statistics = activation_statistics.filter(here)
        activation = statistics.row(0, named=True) if len(statistics) else None
        row, ranks, layers = effect_summary(effects, layer, neuron)
        promoted, suppressed = boosted(boosted_tokens, layer, neuron)
        shown, activation_scale, entropy_scale = excerpts(traces.filter(here), tokens, strings, seed=seed)
        cards.append(
            Card(
                layer=layer,
                neuron=neuron,
                sets=list(names),
                measures=weight_measures(neurons, null_space, frequency_cosine, layer, neuron),
                promoted=promoted,
                suppressed=suppressed,
                activation=activation,
                histogram=statistics["histogram"][0].to_list() if len(statistics) else [],
                effects=row,
                effect_ranks=ranks,
                layer_effects=layers,
                excerpts=shown,
                activation_scale=activation_scale,
                entropy_scale=entropy_scale,
                studies=(studies or StudyTables()).of(layer, neuron, activation),
            )
        )
    return cards
