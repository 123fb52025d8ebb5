"""The study in one picture: weights, effects and mediation of a model's entropy neurons side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import altair as alt
import polars as pl

from neuronlab.figures import (
    effects_data,
    groups,
    norm_logitvar,
    rho_mediation,
    saving,
    singular_values,
    theme,
    total_direct,
)
from neuronlab.neuron_sets import read_selections
from neuronlab.tables import read_table
from neuronlab.traced_sample import TracedSample, sample_of

TITLE = "Which neurons regulate a model's confidence, and through what"
WIDTH, HEIGHT = 390, 290
LABELS = 6
Tables = dict[str, pl.DataFrame]


def _titled(panel: alt.TopLevelMixin, letter: str, title: str, subtitle: str) -> alt.TopLevelMixin:
    heading = alt.Title(
        f"({letter}) {title}",
        subtitle=subtitle,
        fontSize=14,
        subtitleFontSize=12,
        anchor="start",
        offset=8,
        frame="group",
    )
    return panel.properties(title=heading)


def _weights(tables: Tables, sets: Sequence[str] | None) -> tuple[alt.TopLevelMixin, dict[str, int]]:
    frame = norm_logitvar.prepare(tables["neurons"], tables["selection"], sets).drop_nulls("logit_var")
    x, y = norm_logitvar.axes(frame, WIDTH, HEIGHT, "LogitVar")
    panel, _ = norm_logitvar.scatter(frame, x, y, legend=False, labels=LABELS)
    return _titled(
        panel, "a", "Norm and LogitVar of the output weights", "one point per neuron of the last layer"
    ), groups.group_counts(frame)


def _spectrum(tables: Tables, sets: Sequence[str] | None) -> alt.TopLevelMixin:
    automatic, configured = singular_values.null_sizes(tables["singular_values"], tables["null_space"])
    profiles = singular_values.prepare(tables["alignment"], tables["selection"], sets)
    made = singular_values.panels(
        tables["singular_values"],
        profiles,
        automatic,
        configured,
        tail_only=True,
        legend=False,
        width=WIDTH,
        height=HEIGHT // 2 - 20,
    )
    return _titled(
        made, "b", "Singular values of W_U, and where weights lie", "shaded: null space, automatic; dashed: configured"
    )


def _boxes(tables: Tables, sets: Sequence[str] | None) -> alt.TopLevelMixin:
    boxes, order, _ = total_direct.prepare(
        tables["traces"], tables["selection"], sets=sets, outcomes=["loss"], limit=LABELS
    )
    step = WIDTH // max(len(order), 1)
    made = total_direct.panel(boxes["loss"], "loss", order, step=step, height=HEIGHT - 30, legend=False)
    note = "filled: total effect; hollow: final norm's scale frozen"
    return _titled(made, "c", "Total and direct effect on the loss", note)


def _mediation(tables: Tables, sets: Sequence[str] | None, k: int | None, level: float) -> alt.TopLevelMixin:
    k = effects_data.chosen_k(tables["null_space"], k)
    frame, _ = rho_mediation.prepare(tables["effects"], tables["null_space"], tables["selection"], k=k, sets=sets)
    made, _ = rho_mediation.panel(frame, k=k, width=WIDTH - 10, height=HEIGHT, legend=False, labels=LABELS)
    return _titled(
        made,
        "d",
        "Null-space share and mediation by the norm",
        f"every neuron of the layer; bars: {100 * level:g} % intervals",
    )


def chart(
    neurons: pl.DataFrame,
    singular_values: pl.DataFrame,
    alignment: pl.DataFrame,
    null_space: pl.DataFrame,
    selection: pl.DataFrame,
    traces: pl.DataFrame,
    effects: pl.DataFrame,
    *,
    model: str,
    text: str | None = None,
    sets: Sequence[str] | None = None,
    replacement: str | None = None,
    level: float = 0.95,
    k: int | None = None,
    sample: TracedSample | None = None,
) -> alt.TopLevelMixin:
    """Four panels, from the tables of the same names.

    Args:
        sample: what the traces are a sample of; None for the whole text.
    """
    effects, replacement = effects_data.one_replacement(effects, replacement)
    traces = traces.filter(pl.col("replacement") == replacement)
    tables = {
        "neurons": neurons,
        "singular_values": singular_values,
        "alignment": alignment,
        "null_space": null_space,
        "selection": selection,
        "traces": traces,
        "effects": effects,
    }
    layer = int(neurons["layer"].max() or 0)
    about = theme.about(
        model,
        text,
        f"layer {layer} (last), {theme.count(int((neurons['layer'] == layer).sum()), 'neuron')}",
        effects_data.sample_size(effects),
    )
    if not groups.highlighted_sets(selection, sets) or not len(traces) or not len(effects):
        note = theme.note_chart("no neuron is selected, or none has effects:\nsee the single figures")
        return theme.finish(note, TITLE, [about])
    weights, numbers = _weights(tables, sets)
    rows = [
        groups.key(list(numbers), numbers, 2 * WIDTH),
        alt.hconcat(weights, _spectrum(tables, sets), spacing=46),
        alt.hconcat(_boxes(tables, sets), _mediation(tables, sets, k, level), spacing=46),
    ]
    subtitle = [about, f"{effects_data.replaced_by(replacement)}; intervals: bootstrap by document"]
    if sample:
        subtitle.append(f"(c): {effects_data.traced_part(sample)}")
    return theme.finish(alt.vconcat(*rows, spacing=26), TITLE, subtitle, padding=18)


def draw(
    *,
    neurons: str | Path,
    singular_values: str | Path,
    alignment: str | Path,
    null_space: str | Path,
    selection: str | Path | Sequence[str | Path],
    traces: str | Path,
    effects: str | Path,
    figures: Sequence[str | Path],
    model: str,
    text: str,
    sets: Sequence[str] | None = None,
    replacement: str | None = None,
    level: float = 0.95,
    k: int | None = None,
) -> None:
    """Rule `draw_overview`: read the tables, write the figure in the formats of `figures`' suffixes."""
    made = chart(
        read_table(neurons, "neurons"),
        read_table(singular_values, "singular_values"),
        read_table(alignment, "alignment"),
        read_table(null_space, "null_space"),
        read_selections(selection),
        read_table(traces, "traces"),
        read_table(effects, "effects"),
        model=model,
        text=text,
        sets=sets,
        replacement=replacement,
        level=level,
        k=k,
        sample=sample_of(traces),
    )
    saving.save(made, figures)
