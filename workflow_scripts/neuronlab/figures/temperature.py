"""How much of an ablation one temperature explains: sets of neurons and single ones, against control sets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import altair as alt
import polars as pl

from neuronlab.figures import effects_data, saving, theme
from neuronlab.figures.points import Axis
from neuronlab.figures.set_rows import MATCHED, OWN, RANDOM, SECOND, key, row_panel, rows_of
from neuronlab.tables import read_table

TITLE = "Is the ablation only a change of temperature?"
WIDTH = 270


def chart(temperature: pl.DataFrame, *, model: str, text: str | None = None, level: float = 0.95) -> alt.TopLevelMixin:
    """The figure, from the table `temperature`: size of the change, share explained, best temperature."""
    about = theme.about(model, text, effects_data.sample_size(temperature))
    if not len(temperature):
        return theme.finish(theme.note_chart("no neuron is selected in the last layer"), TITLE, [about])
    rows = rows_of(temperature)
    drawn = rows.frame
    change = theme.log_domain(drawn["kl_change"], drawn["kl_change_low"], drawn["kl_change_high"])
    ends = [drawn[f"temperature{end}"] for end in ("", "_low", "_high")]
    panels = [
        row_panel(
            rows,
            "kl_change",
            Axis("value", "mean KL(clean || ablated) (nats)", tuple(change), log=True, pixels=WIDTH),
            names=True,
        ),
        row_panel(
            rows,
            "explained",
            Axis("value", "share that temperature explains", (-0.02, 1.02), pixels=WIDTH, number_format="%"),
            names=False,
            second="explained_per_token",
        ),
        row_panel(
            rows,
            "temperature",
            Axis("value", "best temperature", tuple(theme.linear_domain(*ends, include=[1.0])), pixels=WIDTH),
            names=False,
            reference=1.0,
        ),
    ]
    subtitle = [
        about,
        f"last layer; {effects_data.replaced_by(temperature['replacement'][0])}",
        f"bars: {100 * level:g} % intervals, bootstrap by document",
        "numbered rows: single selected neurons (layer.neuron)",
        "temperature above 1: ablation flattens the output, so the neurons sharpened it",
        f"{theme.count(rows.left_out, 'more single neuron')} not drawn" if rows.left_out else None,
    ]
    marks = [(OWN, "one temperature for all tokens"), (SECOND, "the best one at every token")]
    present = drawn["source"].unique().to_list()
    marks += [(mark, mark) for mark in (RANDOM, MATCHED) if mark in present]
    return theme.finish(
        alt.vconcat(alt.hconcat(*panels, spacing=24), key(marks, 3 * WIDTH), spacing=16), TITLE, subtitle
    )


def draw(*, temperature: str | Path, figures: Sequence[str | Path], model: str, text: str, level: float = 0.95) -> None:
    """Rule `draw_temperature`: read the table, write the figure in the formats of `figures`' suffixes."""
    made = chart(read_table(temperature, "temperature"), model=model, text=text, level=level)
    saving.save(made, figures)
