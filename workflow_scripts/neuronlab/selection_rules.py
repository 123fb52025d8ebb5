"""The published rules that choose neurons by their weights, each by name (METHODS 0.4, D1, D2).

A rule is a small function `(frame, parameters) -> frame`. The frame holds one row per neuron with the columns of
neurons.parquet, `rho` at the k that the selection names, and `kurtosis` of the activation where statistics are given;
it comes back filtered, in the rule's order, the strongest first. Rules search the last layer unless `layer_min` says
otherwise, because that is where effects are exact (METHODS A2). Ties are broken by layer and neuron.

A selection is a mapping of parameters from the configuration, with its rule's name under `rule`. What does not fit is
refused with the key that is at fault, `selections.<set>.<key>`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import polars as pl

Parameters = Mapping[str, Any]
RuleFunction = Callable[[pl.DataFrame, Parameters], pl.DataFrame]
PLACE = ("layer", "neuron")


class SelectionError(ValueError):
    """A selection that cannot be made; the message names the config key and the remedy."""


@dataclass(frozen=True)
class SelectionRule:
    """A rule, what it must be told, and what it may be."""

    choose: RuleFunction
    required: tuple[str, ...]
    defaults: Mapping[str, Any]
    uses_rho: bool


RULES: dict[str, SelectionRule] = {}


def selection_rule(
    name: str, *required: str, uses_rho: bool = False, searches: bool = True, **defaults: Any
) -> Callable[[RuleFunction], RuleFunction]:
    """Register a rule under `name`: parameters that it requires, and defaults of the others.

    Args:
        uses_rho: whether it may be told `k`.
        searches: whether it searches layers, and may be told `layer_min`.

    Raises:
        SelectionError: if the name is taken.
    """

    def register(function: RuleFunction) -> RuleFunction:
        if name in RULES:
            raise SelectionError(f"there is a selection rule '{name}' already; give the new one another name")
        layers = {"layer_min": -1} if searches else {}
        RULES[name] = SelectionRule(function, required, layers | defaults, uses_rho)
        return function

    return register


def complete_parameters(name: str, selection: Parameters) -> dict[str, Any]:
    """The parameters of selection `name` with its rule's defaults filled in.

    Raises:
        SelectionError: unknown rule, a required parameter missing, one that the rule does not know, or out of range.
    """
    where = f"selections.{name}"
    rule = RULES.get(str(selection.get("rule")))
    if rule is None:
        close = get_close_matches(str(selection.get("rule")), RULES, n=1, cutoff=0.4)
        hint = f"did you mean '{close[0]}'? " if close else ""
        raise SelectionError(
            f"{where}.rule: there is no rule '{selection.get('rule')}'; {hint}known: {', '.join(RULES)}"
        )
    given = {key: value for key, value in selection.items() if key not in ("rule", "models") and value is not None}
    known = {*rule.required, *rule.defaults, *(["k"] if rule.uses_rho else [])}
    for key in rule.required:
        if key not in given:
            raise SelectionError(f"{where}.{key} is missing: the rule '{selection['rule']}' needs it")
    for key in given:
        if key not in known:
            names = ", ".join(sorted(known))
            raise SelectionError(f"{where}.{key} has no meaning for the rule '{selection['rule']}'; it knows {names}")
    _check_ranges(where, given)
    return {**rule.defaults, **given}


RANGES = {
    "rho_min": (0, 1),
    "norm_quantile": (0, 1),
    "logit_var_quantile": (0, 1),
    "percent": (0, 100),
}


def _check_ranges(where: str, given: Parameters) -> None:
    for key, (low, high) in RANGES.items():
        if key in given and not low <= given[key] <= high:
            raise SelectionError(f"{where}.{key} is {given[key]}; it lies between {low} and {high}")
    if "count" in given and (given["count"] != int(given["count"]) or given["count"] < 1):
        raise SelectionError(f"{where}.count is {given['count']}; it is a whole number of neurons, at least 1")


def search_layers(frame: pl.DataFrame, layer_min: int, where: str) -> pl.DataFrame:
    """Rows from layer `layer_min` on (negative counts from the end) whose neurons write anything.

    Raises:
        SelectionError: if the model has no such layer.
    """
    n_layers = int(frame["layer"].max()) + 1
    first = layer_min + n_layers if layer_min < 0 else layer_min
    if not 0 <= first < n_layers:
        raise SelectionError(f"{where}.layer_min is {layer_min}; the model has layers 0 to {n_layers - 1}")
    return frame.filter(pl.col("layer") >= first, pl.col("norm") > 0)


def _sorted(frame: pl.DataFrame, by: str, descending: bool = False) -> pl.DataFrame:
    return frame.sort(by, *PLACE, descending=[descending, False, False])


def _take(frame: pl.DataFrame, count: int | None, what: str) -> pl.DataFrame:
    """The first `count` rows, all for None.

    Raises:
        SelectionError: if there are fewer; `what` says what was asked of them.
    """
    if count is None:
        return frame
    if count > len(frame):
        raise SelectionError(f"count: {count} neurons are asked for, {len(frame)} {what}")
    return frame.head(count)


@selection_rule("top_rho", "count", uses_rho=True)
def top_rho(frame: pl.DataFrame, parameters: Parameters) -> pl.DataFrame:
    """Study A's function: the `count` neurons with the largest rho."""
    return _take(_sorted(frame, "rho", descending=True), parameters["count"], "are there")


@selection_rule("top_rho_percent", uses_rho=True, percent=1.0)
def top_rho_percent(frame: pl.DataFrame, parameters: Parameters) -> pl.DataFrame:
    """Study A's share of N: the largest `percent` per cent by rho, rounded down, at least one."""
    count = max(1, int(len(frame) * parameters["percent"] / 100 + 1e-9))
    return _sorted(frame, "rho", descending=True).head(count)


@selection_rule("rho_then_logit_var", "rho_min", "count", uses_rho=True)
def rho_then_logit_var(frame: pl.DataFrame, parameters: Parameters) -> pl.DataFrame:
    """Study B: of the neurons with rho >= `rho_min`, the `count` with the lowest LogitVar."""
    passed = frame.filter(pl.col("rho") >= parameters["rho_min"])
    best = frame["rho"].max()
    what = f"have rho >= {parameters['rho_min']} (the largest is {best:.3f}): lower rho_min or count"
    return _take(_sorted(passed, "logit_var"), parameters["count"], what)


@selection_rule("norm_and_logit_var", "norm_quantile", "logit_var_quantile", count=None)
def norm_and_logit_var(frame: pl.DataFrame, parameters: Parameters) -> pl.DataFrame:
    """Study A's description made explicit: norm at or above, LogitVar at or below quantiles of the layers searched.

    Lowest LogitVar first. The study picked its six neurons of GPT-2 by hand in that corner of the plot.
    """
    norm = frame["norm"].quantile(parameters["norm_quantile"], "linear")
    logit_var = frame["logit_var"].quantile(parameters["logit_var_quantile"], "linear")
    passed = frame.filter(pl.col("norm") >= norm, pl.col("logit_var") <= logit_var)
    what = f"have norm >= {norm:.4g} and LogitVar <= {logit_var:.4g}: widen the quantiles or lower count"
    return _take(_sorted(passed, "logit_var"), parameters["count"], what)


@selection_rule(
    "universal_query",
    layer_min=-2,
    l2_penalty_min=None,
    vocab_kurt_max=None,
    vocab_var_max=None,
    activation_kurt_max=None,
    count=None,
)
def universal_query(frame: pl.DataFrame, parameters: Parameters) -> pl.DataFrame:
    """The query of "Universal neurons" (D1), lowest variance of the cosine profile first.

    l2_penalty = |w_in|^2 + |w_out|^2. The kurtosis of the activation needs activation statistics, which hang on a
    text: without them a limit on it is refused rather than ignored. Searches the last two layers by default.
    """
    if parameters["activation_kurt_max"] is not None and "kurtosis" not in frame.columns:
        raise SelectionError("activation_kurt_max: needs activation statistics, and none were given; remove it")
    if parameters["activation_kurt_max"] is not None:
        bare = frame.group_by("layer").agg(pl.col("kurtosis").is_null().all()).filter("kurtosis")["layer"]
        if len(bare):
            layers = ", ".join(map(str, bare.sort()))
            raise SelectionError(
                f"activation_kurt_max: no activation statistics of layer {layers}, which is searched; add it to "
                "ablation.statistics_layers, or raise layer_min"
            )
    measures = {
        "l2_penalty_min": (pl.col("norm_in").pow(2) + pl.col("norm").pow(2)).ge,
        "vocab_kurt_max": pl.col("vocab_kurt").le,
        "vocab_var_max": pl.col("vocab_var").le,
        "activation_kurt_max": pl.col("kurtosis").le,
    }
    conditions = [test(parameters[key]) for key, test in measures.items() if parameters[key] is not None]
    passed = frame.filter(conditions) if conditions else frame
    return _take(_sorted(passed, "vocab_var"), parameters["count"], "pass the query: widen it or lower count")


def _by_moments(frame: pl.DataFrame, parameters: Parameters, sign: int) -> pl.DataFrame:
    passed = frame.filter(pl.col("vocab_kurt") > parameters["vocab_kurt_min"], sign * pl.col("vocab_skew") > 0)
    what = f"have kurtosis > {parameters['vocab_kurt_min']} and that sign of skew: lower vocab_kurt_min or count"
    return _take(_sorted(passed, "vocab_kurt", descending=True), parameters["count"], what)


@selection_rule("prediction", vocab_kurt_min=10.0, count=None)
def prediction(frame: pl.DataFrame, parameters: Parameters) -> pl.DataFrame:
    """C and D: kurtosis of the cosine profile above 10 and positive skew: raises a few tokens."""
    return _by_moments(frame, parameters, 1)


@selection_rule("suppression", vocab_kurt_min=10.0, count=None)
def suppression(frame: pl.DataFrame, parameters: Parameters) -> pl.DataFrame:
    """C and D: kurtosis of the cosine profile above 10 and negative skew: lowers a few tokens."""
    return _by_moments(frame, parameters, -1)


@selection_rule("partition", vocab_var_min=0.005, count=None)
def partition(frame: pl.DataFrame, parameters: Parameters) -> pl.DataFrame:
    """D: variance of the cosine profile above 0.005: raises one half of the vocabulary, lowers the other."""
    passed = frame.filter(pl.col("vocab_var") > parameters["vocab_var_min"])
    what = f"have a variance > {parameters['vocab_var_min']}: lower vocab_var_min or count"
    return _take(_sorted(passed, "vocab_var", descending=True), parameters["count"], what)


@selection_rule("explicit", "neurons", searches=False)
def explicit(frame: pl.DataFrame, parameters: Parameters) -> pl.DataFrame:
    """Neurons listed as `layer.neuron`, in the order of the list."""
    listed = [tuple(int(part) for part in str(name).split(".")) for name in parameters["neurons"]]
    if len(set(listed)) < len(listed):
        raise SelectionError("neurons: a neuron is listed twice")
    n_layers = int(frame["layer"].max()) + 1
    n_neurons = int(frame["neuron"].max()) + 1
    for layer, neuron in listed:
        if layer >= n_layers or neuron >= n_neurons:
            raise SelectionError(
                f"neurons: there is no neuron {layer}.{neuron}; the model has layers 0 to {n_layers - 1} "
                f"with neurons 0 to {n_neurons - 1}"
            )
    order = pl.DataFrame(listed, schema={"layer": frame["layer"].dtype, "neuron": frame["neuron"].dtype}, orient="row")
    return order.join(frame, on=PLACE, how="left", maintain_order="left")


def choose(name: str, selection: Parameters, frame: pl.DataFrame) -> pl.DataFrame:
    """Neurons of selection `name`, in the rule's order, as rows of `frame`.

    Raises:
        SelectionError: for parameters that do not fit the rule or the model, and if no neuron passes.
    """
    parameters = complete_parameters(name, selection)
    where = f"selections.{name}"
    rule = RULES[selection["rule"]]
    searched = search_layers(frame, parameters["layer_min"], where) if "layer_min" in parameters else frame
    try:
        chosen = rule.choose(searched, parameters)
    except SelectionError as error:
        raise SelectionError(f"{where}.{error}") from None
    if chosen.is_empty():
        raise SelectionError(
            f"{where}: no neuron passes the rule '{selection['rule']}' with {dict(sorted(parameters.items()))}; "
            "widen its limits, or restrict the selection to other models with `models`"
        )
    return chosen
