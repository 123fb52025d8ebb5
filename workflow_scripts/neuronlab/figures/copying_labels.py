"""How figures of context copying call and colour labels, kinds of sets and measures; the same in all of them."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt

from neuronlab.figures import theme
from neuronlab.schemas_knowledge import LABELS

NAMES = {"CK": "context (CK)", "ND": "neither (ND)", "PK": "parametric (PK)"}
# Tol's high-contrast colours: apart with every common colour blindness and in print without colour, and apart from the
# colours of sets of neurons.
COLOURS = {"CK": "#004488", "ND": "#ddaa33", "PK": "#bb5566"}
CONTROLS = {
    "uniform": "random control sets",
    "norm_matched": "norm-matched control sets",
    "synthetic": "synthetic control sets",
}
CONTROL_COLOURS = {"uniform": "#9aa3ac", "norm_matched": "#5a6470", "synthetic": "#c9a77c"}
ARROW = "\N{RIGHTWARDS ARROW}"


def label_colours(*, legend: alt.Legend | None = None, field: str = "label", stroke: bool = False) -> alt.Color:
    """Colour by label (CK, ND, PK in `field`), in the published order, with a legend in words if one is given."""
    if legend is not None:
        legend = legend.copy()
        legend.labelExpr = f"({NAMES})[datum.value]"
    scale = alt.Scale(domain=list(LABELS), range=[COLOURS[label] for label in LABELS])
    return (alt.Stroke if stroke else alt.Color)(f"{field}:N", scale=scale, legend=legend)


def transition(before: str, after: str) -> str:
    """`transition("ND", "CK")` is 'neither → context', for titles."""
    words = {label: name.split(" (")[0] for label, name in NAMES.items()}
    return f"{words[before]} {ARROW} {words[after]}"


def present_controls(kinds: Sequence[str]) -> list[str]:
    """The kinds of controls among `kinds`, each once, in the order of `CONTROLS`."""
    return [kind for kind in CONTROLS if kind in set(kinds)]


def about(model: str, facts: str, *numbers: str | None) -> str:
    """First line of a subtitle: which model, which facts, and what was counted."""
    return theme.about(model, None, f"facts {facts}", *(number for number in numbers if number))
