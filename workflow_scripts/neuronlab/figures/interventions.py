"""What changing one layer does to the output, by relative depth (study C, layers deleted and swapped; C1).

For one model a column of panels for whole blocks and one for attention or MLP alone; for several models a column per
intervention, the models overlaid in the colours of their families. A row of panels has one vertical axis.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import altair as alt
import polars as pl

from neuronlab.figures import depth_lines, families, saving, theme
from neuronlab.figures.depth_lines import Look
from neuronlab.schemas_stages import INTERVENTIONS
from neuronlab.tables import read_table

TITLE = "What changing one layer does, by depth"
LOOKS = {
    "delete": Look("block deleted", theme.VERMILION),
    "mean": Look("block's mean", theme.ORANGE, (5, 3)),
    "swap": Look("swapped with the next", theme.PURPLE),
    "delete_attention": Look("attention deleted", theme.BLUE),
    "mean_attention": Look("attention's mean", theme.SKY, (5, 3)),
    "delete_mlp": Look("MLP deleted", theme.GREEN),
    "mean_mlp": Look("MLP's mean", "#7fb800", (5, 3)),
}
COLUMNS = {
    "the whole block": ("delete", "mean", "swap"),
    "its attention or its MLP": ("delete_attention", "mean_attention", "delete_mlp", "mean_mlp"),
}
OVERLAID = ("delete", "swap", "mean")  # drawn for several models, if there
QUANTITIES = {
    "kl": (["KL(clean || changed)", "(nats)"], "log"),
    "loss_change": (["change of loss", "(nats)"], "signed"),
    "agreement": (["top prediction", "stays"], "share"),
    "entropy": (["entropy", "(nats)"], "linear"),
}
WIDTHS, HEIGHT = {1: 560, 2: 400, 3: 300}, 130  # of a panel, by the number of columns
X_DOMAIN = (-0.035, 1.035)


def prepare(table: pl.DataFrame, quantity: str, by: str | pl.Expr) -> pl.DataFrame:
    """Rows to draw (see `depth_lines`) of the layers and of adjacent swaps, sorted by depth.

    Swaps of layers that are not neighbours belong to the matrix, not to a line over depth.
    """
    near = pl.col("other").is_null() | ((pl.col("other") - pl.col("layer")).abs() == 1)
    pair = pl.format("layers {} and {}", pl.col("layer"), pl.col("other"))
    said = pl.when(pl.col("other").is_null()).then(pl.format("layer {}", pl.col("layer"))).otherwise(pair)
    return depth_lines.rows_of(table.filter(near).sort("depth", maintain_order=True), quantity, by, "depth", said)


def panel(
    frame: pl.DataFrame,
    looks: Sequence[Look],
    quantity: str,
    axis: depth_lines.Vertical,
    *,
    width: int,
    first: bool,
    foot: bool,
    clean: float | None = None,
) -> alt.LayerChart:
    """One quantity over relative depth; `clean`: where a line stands for the model as it is."""
    x = alt.X(
        "x:Q",
        scale=alt.Scale(domain=list(X_DOMAIN), nice=False, zero=False),
        axis=alt.Axis(
            title="relative depth" if foot else None,
            labels=foot,
            ticks=foot,
            values=[0, 0.2, 0.4, 0.6, 0.8, 1],
            grid=False,
        ),
    )
    words = QUANTITIES[quantity][0] if first else None
    drawn = depth_lines.lines(frame, looks, x, axis, words, quantity=quantity)
    if clean is not None:
        rule = alt.Chart(pl.DataFrame({"value": [clean]})).mark_rule(color=theme.FAINT, strokeDash=[4, 3])
        drawn.insert(0, rule.encode(y=axis.y("value", words)))
    return alt.layer(*drawn).properties(width=width, height=HEIGHT)


def grid(
    columns: Mapping[str, Mapping[str, pl.DataFrame]],
    keys: Mapping[str, Sequence[Look]],
    looks: Sequence[Look],
    clean: float | None,
    width: int,
) -> alt.ConcatChart:
    """A row of panels per quantity, a column per heading, with the keys above them.

    Args:
        columns: the rows to draw by heading and quantity.
        keys: which series the key of a column names; a column without a key has its heading alone.
        looks: of all series.
        clean: entropy of the model as it is.
    """
    cells: list[alt.Chart] = [
        depth_lines.heading(depth_lines.key(looks, keys[heading], width), heading) for heading in columns if keys
    ]
    for quantity, (_, kind) in QUANTITIES.items():
        here = {heading: frames[quantity] for heading, frames in columns.items()}
        level = {"entropy": clean, "loss_change": 0.0}.get(quantity)
        axis = depth_lines.vertical(*here.values(), kind=kind, include=[] if level is None else [level])
        for number, (heading, frame) in enumerate(here.items()):
            look = {"width": width, "first": number == 0, "foot": quantity == list(QUANTITIES)[-1], "clean": level}
            made = panel(frame, looks, quantity, axis, **look)
            top = not keys and quantity == next(iter(QUANTITIES))
            cells.append(depth_lines.heading(made, heading) if top else made)
    return alt.concat(*cells, columns=len(columns), spacing={"row": 14, "column": 26})


def one_model(table: pl.DataFrame) -> alt.ConcatChart:
    """Panels of one model: a line per intervention."""
    present = set(table["intervention"])
    shown = {heading: [name for name in names if name in present] for heading, names in COLUMNS.items()}
    shown = {heading: names for heading, names in shown.items() if names}
    columns = {}
    for heading, names in shown.items():
        own = table.filter(pl.col("intervention").is_in(names))
        by = pl.col("intervention").replace_strict({name: LOOKS[name].name for name in names})
        columns[heading] = {quantity: prepare(own, quantity, by) for quantity in QUANTITIES}
    keys = {heading: [LOOKS[name] for name in names] for heading, names in shown.items()}
    clean = float((table["entropy"] - table["entropy_change"]).mean())
    return grid(columns, keys, list(LOOKS.values()), clean, WIDTHS[len(columns)])


def several_models(tables: Mapping[str, pl.DataFrame], names: Sequence[str]) -> alt.VConcatChart:
    """Panels of several models: a column per intervention, a line per model."""
    named = families.families_of({model: [table] for model, table in tables.items()})
    looks, width = families.looks_of(named), WIDTHS[min(len(names), 3)]
    columns = {}
    for name in names:
        own = {model: table.filter(pl.col("intervention") == name) for model, table in tables.items()}
        columns[LOOKS[name].name] = {
            quantity: pl.concat(prepare(table, quantity, model) for model, table in own.items())
            for quantity in QUANTITIES
        }
    return alt.vconcat(families.key(named, width * len(names)), grid(columns, {}, looks, None, width), spacing=16)


def chart(
    tables: Mapping[str, pl.DataFrame],
    *,
    text: str,
    level: float = 0.95,
    interventions: Sequence[str] | None = None,
) -> alt.TopLevelMixin:
    """The figure, from a table `interventions` per model.

    Args:
        tables: by model; several are overlaid.
        level: of the intervals in the tables.
        interventions: which to draw; if not given all of one model, and of several those of `OVERLAID`.
    """
    given, tables = list(tables), {model: table for model, table in tables.items() if len(table)}
    present = {name for table in tables.values() for name in table["intervention"]}
    wanted = interventions or (tuple(INTERVENTIONS) if len(tables) < 2 else OVERLAID)
    shown = [name for name in wanted if name in present] or [name for name in INTERVENTIONS if name in present][:3]
    if not shown:
        return theme.finish(theme.note_chart("no intervention was made"), TITLE, [depth_lines.about(given, text)])
    whole = pl.concat(tables.values())
    kept = {model: table.filter(pl.col("intervention").is_in(shown)) for model, table in tables.items()}
    body = one_model(next(iter(kept.values()))) if len(tables) == 1 else several_models(kept, shown)
    documents, drawn = int(whole["n_documents"].max()), depth_lines.marks(int(whole["layer"].max()) + 1)
    each = " each" if len(tables) > 1 else ""
    counted = (
        depth_lines.span(whole["n_tokens"], "token") + each,
        depth_lines.span(whole["n_documents"], "document") + each,
    )
    left_out = [LOOKS[name].name for name in INTERVENTIONS if name in present and name not in shown]
    far = whole.filter((pl.col("other") - pl.col("layer")).abs() > 1)
    subtitle = [
        depth_lines.about(list(tables), text, *counted),
        f"{drawn}: {100 * level:g} % interval, bootstrap by document" if documents > 1 else "one document: no interval",
        "relative depth: layer / (layers - 1), of a swap the middle of both",
        "a mean is that of the output over counted positions",
        "dashed: the model as it is" if len(tables) == 1 else None,
        "KL on a logarithmic axis; change of loss on one that is compressed towards its ends if layers differ much",
        "one layer: nothing to swap" if whole["layer"].max() == 0 else None,
        f"not drawn: {', '.join(left_out)}" if left_out else None,
        "swaps of layers that are not neighbours are in the matrix" if len(far) and "swap" in shown else None,
    ]
    return theme.finish(body, TITLE, subtitle)


def draw(
    *,
    interventions: str | Path | Sequence[str | Path],
    figures: Sequence[str | Path],
    model: str | Sequence[str],
    text: str,
    level: float = 0.95,
) -> None:
    """Rule `draw_interventions`: read a table per model, write the figure in the formats of `figures`' suffixes.

    Args:
        interventions: as many tables as there are models, in their order.
    """
    paths = [interventions] if isinstance(interventions, str | Path) else list(interventions)
    models = [model] if isinstance(model, str) else list(model)
    tables = {name: read_table(path, "interventions") for name, path in zip(models, paths, strict=True)}
    saving.save(chart(tables, text=text, level=level), figures)
