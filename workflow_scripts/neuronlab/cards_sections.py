"""Sections of a neuron card from the study's optional parts, as HTML; a part that is missing leaves no trace."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from neuronlab.cards_cells import UNIT, UNIT_NAME, in_unit, interval
from neuronlab.cards_curves import dose_plot
from neuronlab.cards_doses import Doses
from neuronlab.cards_induction import DrivingHeads, Repetition
from neuronlab.cards_ranks import Row
from neuronlab.cards_studies import Studies
from neuronlab.cards_svg import MINUS, MISSING, OUTCOME_NAMES, number

ABLATED = {
    "bos": "it attends to the first position alone",
    "mean": "its output is replaced by the mean",
}


def _table(rows: Sequence[Sequence[str]], head: Sequence[str]) -> str:
    """Cells are HTML already."""
    top = "".join(f"<th>{cell}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table class="slim"><tr>{top}</tr>{body}</table></div>'


def _percent(value: float | None) -> str:
    return MISSING if value is None else f"{value:.1f} %"


def _decimals(row: Row, name: str, places: int, factor: float = 1.0, suffix: str = "") -> str:
    """A value over its interval with a fixed number of decimal places."""
    value, *ends = (row[f"{name}{end}"] for end in ("", "_low", "_high"))
    if value is None:
        return MISSING
    span = " to ".join(f"{factor * end:.{places}f}".replace("-", MINUS) for end in ends if end is not None)
    span = f'<br><span class="ci">{span}{suffix}</span>' if None not in ends else ""
    return f"{factor * value:.{places}f}".replace("-", MINUS) + suffix + span


def _note(*sentences: str) -> str:
    return f'<p class="note under">{" ".join(sentence for sentence in sentences if sentence)}</p>'


def _frequency(row: Row | None, outcome: str | None) -> str:
    if row is None:
        return ""
    about = f", {OUTCOME_NAMES.get(outcome, escape(outcome))}" if outcome else ""
    rows = [
        [f"1&nbsp;{MINUS}&nbsp;DE<sub>freq</sub>/TE{about}", number(row["m_freq"]), interval(row, "m_freq_report")],
        [f"mean |change of KL|, {UNIT_NAME}", in_unit(row["te_kl"]), interval(row, "te_kl_report", UNIT)],
        ["p, this neuron", number(row["p_value_single"]), number(row["p_value_report"])],
        ["p, all candidates", number(row["p_value"]), MISSING],
    ]
    if row["selected"]:
        verdict = "Selected as a token-frequency neuron."
    elif row["candidate"]:
        verdict = "A candidate, but not selected."
    else:
        verdict = "No candidate, so that no p-value was worked out."
    published = "The study of this model names it a token-frequency neuron." if row["published"] else ""
    counts = f"{row['n_documents_selection']:,} and {row['n_documents_report']:,} documents."
    table = _table(rows, ["", "selecting half", "reporting half"])
    return f"<div><h3>Token frequency</h3>{table}{_note(verdict, published, counts)}</div>"


def _temperature(row: Row | None) -> str:
    if row is None:
        return ""
    rows = [
        [f"KL(clean || ablated), {UNIT_NAME}", interval(row, "kl_change", UNIT)],
        ["temperature nearest to the ablation", _decimals(row, "temperature", 4)],
        ["share of that KL that it explains", _decimals(row, "explained", 1, 100, " %")],
        ["with a temperature per token", _decimals(row, "explained_per_token", 1, 100, " %")],
    ]
    effect, low, high = "", row["temperature_low"], row["temperature_high"]
    if low is not None and high is not None:
        if low > 1:
            effect = "Above 1: replacing the activation flattens the output."
        elif high < 1:
            effect = "Below 1: replacing the activation sharpens the output."
        else:
            effect = "The interval includes 1: no change of temperature can be told."
    counts = f"{row['n_tokens']:,} tokens of {row['n_documents']:,} documents."
    table = _table(rows, ["ablated alone", "value"])
    return f"<div><h3>As a change of temperature</h3>{table}{_note(effect, counts)}</div>"


def _doses(doses: Doses | None) -> str:
    if doses is None:
        return ""
    counts = f"{doses.n_tokens:,} tokens of {doses.n_documents:,} documents."
    drawing = dose_plot(doses)
    if drawing:
        text = f"Mean change, {UNIT_NAME}, against the clean run; bands: intervals; diamonds: held at the mean."
        return f"<div><h3>Dose and response</h3>{drawing}{_note(text, counts)}</div>"
    changes = [
        f"{curve.outcome} {in_unit(float(curve.total[0]))}"
        for curve in doses.curves
        if len(doses.values) == 1 and curve.total[0] == curve.total[0]
    ]
    held = (
        f"Held at {number(float(doses.values[0]))}, the only value: mean change of {', '.join(changes)} ({UNIT_NAME})."
    )
    text = held if changes else "No change is known."
    return f"<div><h3>Dose and response</h3>{_note(text, counts)}</div>"


def _repetitions(found: Sequence[Repetition]) -> str:
    if not found:
        return ""
    rows = [
        ["mean activation, first copy", *(number(one.row["mean_first"]) for one in found)],
        ["the same, last copy", *(number(one.row["mean_second"]) for one in found)],
        ["score", *(interval(one.row, "score") for one in found)],
        ["rank in the layer", *(_percent(one.percentile) for one in found)],
    ]
    table = _table(rows, ["", *(escape(one.kind) for one in found)])
    counts = "; ".join(f"{escape(one.kind)}: {one.row['n_sequences']:,} sequences" for one in found)
    text = "Score: rise of the mean activation from the first to the last copy, times |w_out|; below 0 it falls."
    return f"<div><h3>On repetitions</h3>{table}{_note(text, f'{counts[:1].upper()}{counts[1:]}.')}</div>"


def _heads(heads: DrivingHeads | None) -> str:
    if heads is None:
        return ""
    rows = [
        [
            escape(head.head),
            interval({"change": head.change, "change_low": head.low, "change_high": head.high}, "change"),
            number(head.in_sd),
        ]
        for head in heads.strongest
    ]
    table = _table(rows, ["head", "change", "in sd on the text"]) if rows else ""
    how = f"Mean change of the activation on the last copy when a head is ablated: {ABLATED[heads.method]}."
    if not rows:
        told = f"None of the {heads.tested} heads moves it."
    elif not heads.clear:
        told = f"All intervals of the {heads.tested} heads include 0."
    else:
        told = f"{heads.clear} of {heads.tested} heads have an interval that excludes 0 (not corrected)."
    counts = f"{heads.n_sequences:,} synthetic sequences."
    return f"<div><h3>Heads that move it most</h3>{table}{_note(how, told, counts)}</div>"


def sections(studies: Studies) -> str:
    """The sections that there is something for, stacked in the two columns of the card's grid; empty if none."""
    left = [
        _frequency(studies.frequency, studies.frequency_outcome),
        _repetitions(studies.repetitions),
        _heads(studies.heads),
    ]
    right = [_temperature(studies.temperature), _doses(studies.doses)]
    left, right = [part for part in left if part], [part for part in right if part]
    if not left or not right:
        found = left + right
        left, right = found[: (len(found) + 1) // 2], found[(len(found) + 1) // 2 :]
    return "".join(f'<div class="stack">{"".join(column)}</div>' for column in (left, right) if column)


HELP = """<dt>Token frequency</dt><dd>Half of the documents select neurons, the other half report. 1 - DE_freq/TE is the
part of the effect that goes when the logits' projection on the log-unigram direction is kept clean; KL is
KL(P_freq || P_model). p: share of random logit directions of the same variance that take away at least as much from
this neuron, or from any candidate (family-wise); it cannot be smaller than one over their number plus one.</dd>
<dt>As a change of temperature</dt><dd>The one temperature that takes the clean output nearest to the one with the
activation replaced, and how much of the KL between the two goes by it.</dd>
<dt>Dose and response</dt><dd>The activation is held at a value at all sampled tokens. Values far from the mean are rare
in the text: they show what the neuron can do, not what it does.</dd>
<dt>Repetitions and heads</dt><dd>Sequences that repeat themselves: made from tokens (synthetic) or found in the text
(natural). The rank is by the signed score: low ranks fall most on the repetition. Heads are ablated one at a time on
synthetic repetitions; a head that moves the neuron need not be an induction head.</dd>
"""
