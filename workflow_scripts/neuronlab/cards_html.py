"""Neuron cards as one HTML page: everything inline, nothing fetched, every token escaped."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from math import ceil

from neuronlab.cards_cells import UNIT, UNIT_NAME, in_unit, interval, place, signed
from neuronlab.cards_data import Card, Excerpt, Measure, Token
from neuronlab.cards_sections import HELP as STUDY_HELP
from neuronlab.cards_sections import sections
from neuronlab.cards_style import ACTIVE, INACTIVE, LEVELS, LOWERED, RAISED, STYLE, shades, tint
from neuronlab.cards_svg import MINUS, MISSING, OUTCOME_NAMES, effect_plot, histogram, number

SET_NAMES = {"entropy": "entropy neuron", "token_frequency": "token-frequency neuron"}
CONTROL_CHARACTERS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


def _plain(text: str) -> str:
    return CONTROL_CHARACTERS.sub("\N{REPLACEMENT CHARACTER}", text)


def visible(text: str, *, edges: bool = False) -> str:
    """Escaped text of a token; line ends (and, with `edges`, spaces at the ends) as marks that can be seen."""
    text = _plain(text)
    lead = len(text) - len(text.lstrip(" ")) if edges else 0
    trail = len(text) - len(text.rstrip(" ")) if edges and text.strip(" ") else 0
    core = escape(text[lead : len(text) - trail])
    core = core.replace("\r", "").replace("\n", '<span class="ws">⏎</span>').replace("\t", '<span class="ws">⇥</span>')
    dot = '<span class="ws">·</span>'
    return dot * lead + core + dot * trail


def level(value: float, scale: float) -> int:
    """Shade 0 (none) to LEVELS (full) of a value, in equal steps of `scale`."""
    if scale <= 0:
        return 0
    return min(LEVELS, ceil(abs(value) / scale * LEVELS - 0.5))


def _set_name(name: str) -> str:
    return SET_NAMES.get(name, name.replace("_", " "))


def _anchor(card: Card) -> str:
    return f"n{card.layer}-{card.neuron}"


def _token(token: Token, card: Card) -> str:
    if token.activation is None or token.entropy_change is None:
        return f'<span class="off">{visible(token.text)}</span>'
    names = ["t"]
    a, e = level(token.activation, card.activation_scale), level(token.entropy_change, card.entropy_scale)
    if a:
        names.append(f"{'a' if token.activation > 0 else 'n'}{a}")
    if e:
        names.append(f"{'u' if token.entropy_change > 0 else 'd'}{e}")
    if token.peak:
        names.append("p")
    loss = f"; loss {signed(token.loss_change)}" if token.loss_change is not None else ""
    title = f"activation {number(token.activation)}; entropy {signed(token.entropy_change)}{loss}"
    return f'<span class="{" ".join(names)}" title="{title}">{visible(token.text)}</span>'


def _excerpt(excerpt: Excerpt, card: Card) -> str:
    peak = next(token for token in excerpt.tokens if token.peak)
    facts = [f"document {excerpt.document}", f"sequence {excerpt.sequence}, position {excerpt.position}"]
    if peak.activation is not None and peak.entropy_change is not None:
        facts += [f"activation {number(peak.activation)}", f"entropy {signed(peak.entropy_change)} nats"]
    body = "".join(_token(token, card) for token in excerpt.tokens)
    return f'<div class="ex"><small><b>{excerpt.why}</b> · {" · ".join(facts)}</small>{body}</div>'


def _measures(measures: Sequence[Measure]) -> str:
    rows = []
    for measure in measures:
        rows.append(
            f'<tr><td title="{escape(measure.meaning)}">{escape(measure.name)}</td>'
            f"<td>{number(measure.value)}</td><td>{place(measure.percentile)}</td></tr>"
        )
    head = "<tr><th>weights</th><th>value</th><th>rank in the layer</th></tr>"
    return f'<div class="scroll"><table>{head}{"".join(rows)}</table></div>'


def _effects(card: Card) -> str:
    row = card.effects
    if row is None:
        return '<p class="note">No effects: only neurons of the last layer are ablated in closed form.</p>'
    head = "".join(f"<th>{name}</th>" for name in OUTCOME_NAMES.values())
    lines = [
        ("te", "total, mean |change|"),
        ("de", "direct, mean |change|"),
        ("m", f"1&nbsp;{MINUS}&nbsp;DE/TE"),
        ("total", "mean change"),
        ("direct", "direct part"),
        ("indirect", "indirect part (norm)"),
    ]
    body = []
    for key, name in lines:
        cells = "".join(
            f"<td>{interval(row, f'{key}_{outcome}', 1.0 if key == 'm' else UNIT)}</td>" for outcome in OUTCOME_NAMES
        )
        body.append(f"<tr><td>{name}</td>{cells}</tr>")
        if key == "te":
            ranks = [card.effect_ranks.get(f"te_{outcome}") for outcome in OUTCOME_NAMES]
            cells = "".join(f"<td>{MISSING if rank is None else f'{rank:.1f} %'}</td>" for rank in ranks)
            body.append(f'<tr><td class="note">&ensp;rank in the layer</td>{cells}</tr>')
    change = row.get("prediction_change")
    extra = []
    if change is not None:
        low, high = row.get("prediction_change_low"), row.get("prediction_change_high")
        span = f" ({100 * low:.2g} to {100 * high:.2g} %)" if low is not None and high is not None else ""
        extra.append(f"The top prediction changes at {100 * change:.2g} %{span} of the tokens.")
    if row.get("reciprocal_rank_change") is not None:
        extra.append(f"Mean |change| of the correct token's reciprocal rank: {number(row['reciprocal_rank_change'])}.")
    table = f'<div class="scroll"><table class="slim"><tr><th>{UNIT_NAME}</th>{head}</tr>{"".join(body)}</table></div>'
    return f'{table}<p class="note" style="margin-top:8px">{" ".join(extra)}</p>'


def _boosted(title: str, rows: Sequence[tuple[int, str, float]], colour: tuple[int, int, int]) -> str:
    most = max((abs(cosine) for _, _, cosine in rows), default=0.0) or 1.0
    items = []
    for token, text, cosine in rows:
        # A token that is part of a character has no text of its own.
        shown = visible(text, edges=True) if _plain(text).strip("\N{REPLACEMENT CHARACTER}") else f"token {token}"
        share = 100 * abs(cosine) / most
        fill = f"background:linear-gradient(90deg,{tint(colour, 4)} {share:.0f}%,transparent {share:.0f}%)"
        items.append(
            f'<li style="{fill}" title="token {token}"><span class="mono">{shown}</span>'
            f"<span>{number(cosine, 2)}</span></li>"
        )
    body = f'<ol class="tok">{"".join(items)}</ol>' if items else '<p class="note">not listed</p>'
    return f"<div><h3>{title}</h3>{body}</div>"


def _activations(card: Card) -> str:
    row = card.activation
    if row is None:
        return '<p class="note">No activation statistics for this layer.</p>'
    drawing = histogram(card.histogram, row["min"], row["max"], row["mean"])
    facts = f"sd {number(row['sd'])} · median {number(row['median'])} · mode {number(row['mode'])}"
    if row.get("kurtosis") is not None:
        facts += f" · kurtosis {number(row['kurtosis'])}"
    return f'{drawing}<p class="note">{facts} · {row["n_tokens"]:,} tokens; counts on a logarithmic scale</p>'


def _card(card: Card) -> str:
    badges = "".join(
        f'<span class="badge {escape(name, quote=True)}">{escape(_set_name(name))}</span>' for name in card.sets
    )
    plot = effect_plot(card.effects, card.layer_effects) if card.effects else ""
    if plot:
        note = "filled: total; hollow: direct (norm frozen); grey: median to 90 % quantile of the layer's totals"
        plot = f'{plot}<p class="note">{note}</p>'
    stretches = "".join(_excerpt(excerpt, card) for excerpt in card.excerpts)
    if stretches:
        scale = (
            f"full colour at |activation| {number(card.activation_scale)} (the largest) and at a change of entropy of "
            f"{number(card.entropy_scale)} nats (99 % quantile)"
        )
        stretches = f'<div class="full"><h3>In the text</h3><p class="note">{scale}</p>{stretches}</div>'
    return (
        f'<section class="card" id="{_anchor(card)}"><div class="top"><h2>{card.name}</h2>{badges}'
        f'<a class="up" href="#top">to the index</a></div><div class="grid">'
        f"<div>{_measures(card.measures)}</div>"
        f"<div><h3>Activations</h3>{_activations(card)}</div>"
        f"<div><h3>Effect of replacing the activation</h3>{_effects(card)}</div>"
        f'<div>{plot}<div class="tokens">{_boosted("Promoted tokens, cosine", card.promoted, RAISED)}'
        f"{_boosted('Suppressed tokens, cosine', card.suppressed, LOWERED)}</div></div>"
        f"{sections(card.studies)}{stretches}</div></section>"
    )


def _index(cards: Sequence[Card]) -> str:
    def of(card: Card, name: str) -> str:
        return next((number(measure.value) for measure in card.measures if measure.name == name), MISSING)

    rho = next((measure.name for card in cards for measure in card.measures if measure.name.startswith("rho")), "rho")
    names = [
        "neuron",
        "set",
        "norm",
        "LogitVar",
        rho,
        "TE loss",
        f"1 {MINUS} DE/TE loss",
        "TE entropy",
        "predictions changed",
    ]
    rows = []
    for card in cards:
        row = card.effects or {}
        change = row.get("prediction_change")
        cells = [
            f'<a href="#{_anchor(card)}">{card.name}</a>',
            escape(", ".join(_set_name(name) for name in card.sets)),
            of(card, "norm"),
            of(card, "LogitVar"),
            of(card, rho),
            in_unit(row.get("te_loss")),
            number(row.get("m_loss")),
            in_unit(row.get("te_entropy")),
            MISSING if change is None else f"{100 * change:.2g} %",
        ]
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    unit = f'<br><span class="ci">{UNIT_NAME}</span>'
    head = "".join(f"<th>{escape(name)}{unit if name in ('TE loss', 'TE entropy') else ''}</th>" for name in names)
    return f'<div class="index scroll"><table><tr>{head}</tr>{"".join(rows)}</table></div>'


def _ramp(low: tuple[int, int, int], high: tuple[int, int, int]) -> str:
    colours = f"{tint(low, LEVELS)},#fff,{tint(high, LEVELS)}"
    return f'<span class="ramp" style="background:linear-gradient(90deg,{colours})"></span>'


HELP = f"""<details><summary>How to read a card</summary><dl>
<dt>Rank in the layer</dt><dd>Per cent of the layer's other neurons whose value is smaller; 50 is the middle.</dd>
<dt>Total and direct effect (TE, DE)</dt><dd>Mean absolute change over the counted tokens when the activation is
replaced; direct: with the final norm's scale frozen at its clean value. 1 - DE/TE compares the two sizes; it is not a
mediated fraction and can be negative. Missing where TE is below the floor.</dd>
<dt>Mean change, direct part, indirect part</dt><dd>Signed, after minus before. What is left of the mean change is the
interaction of the two parts.</dd>
<dt>Ranges</dt><dd>Intervals of a percentile bootstrap that draws whole documents (95 % unless configured).</dd>
<dt>Promoted and suppressed tokens</dt><dd>The largest and smallest cosines of the output weights with the columns of
W_U, for an activation above zero. Spaces at a token's ends show as dots.</dd>
{STUDY_HELP}<dt>Excerpts</dt><dd>The outlined token is the one that the excerpt was chosen for. Background: activation;
line below: what replacing it does to the entropy at that position. Grey tokens do not count or, where
excerpts are from a sample, are of other sequences. Numbers appear when pointing at a token.</dd></dl></details>"""


def page(cards: Sequence[Card], *, model: str, text: str, facts: Sequence[str], source: str) -> str:
    """The whole page.

    Args:
        facts: what the numbers rest on (tokens, replacement value), for the line below the title.
        source: what made it, for the foot of the page.
    """
    title = f"Neuron cards: {model}, {text}"
    keys = (
        f'<span class="key">activation {MINUS}{_ramp(INACTIVE, ACTIVE)}+</span>'
        f'<span class="key">entropy falls{_ramp(LOWERED, RAISED)}rises when replaced</span>'
    )
    picks = [("both", "both"), ("activation", "activation"), ("entropy", "change of entropy")]
    inputs = "".join(
        f'<input class="pick" type="radio" name="by" id="by-{key}"{" checked" if key == "both" else ""}>'
        for key, _ in picks
    )
    labels = "".join(f'<label for="by-{key}">{name}</label>' for key, name in picks)
    body = "".join(_card(card) for card in cards)
    empty = '<section class="card"><p>No neuron is selected: there is nothing to show.</p></section>'
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<title>{escape(title)}</title><style>{STYLE}{shades()}</style></head>\n<body id="top">'
        f'<header class="page"><h1>Neuron cards</h1><p class="lead">'
        f"model <b>{escape(model)}</b> · text <b>{escape(text)}</b>"
        f"{''.join(f' · {escape(fact)}' for fact in facts)}</p>{_index(cards) if cards else ''}{HELP}</header>\n"
        f'{inputs}<div class="bar"><div><span class="note">shade excerpts by</span>{labels}{keys}</div></div>\n'
        f"<main>{body or empty}</main>\n<footer>{escape(source)}</footer></body></html>\n"
    )
