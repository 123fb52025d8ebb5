"""Rule `compare_copying`: the models of a study of context copying side by side, as tables for papers.

global_scores  global transition score of every selection and replacement, with p-value and percentile
models         dimensions, norm and activation function of the models, and their labels before ablation
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import polars as pl

from neuronlab.copying_tables import CONTROLS, INTERVALS, MEANINGS, replacements, selections, words
from neuronlab.model_dimensions import model_dimensions
from neuronlab.model_files import ModelSpec
from neuronlab.paper_tables import write_paper_tables
from neuronlab.schemas_knowledge import LABELS
from neuronlab.table_cells import MISSING, Row, Table, TableColumn, count, fixed, label, level_words, p_value, percent
from neuronlab.tables import read_table


class CopyingComparisonError(ValueError):
    """Tables that do not belong to the models compared."""


def compare_copying(
    *,
    models: Mapping[str, ModelSpec],
    facts: str,
    class_counts: Sequence[str | Path],
    scores: Sequence[str | Path],
    control_tests: Sequence[str | Path],
    tables: Sequence[str | Path],
    level: float,
) -> None:
    """Write the tables whose paths are given: `global_scores` and `models`, each .tex or .html.

    Args:
        models: by the names that the tables show, in their order.
        facts: name of the knowledge base.
        class_counts, scores, control_tests: paths of those tables, one for each model, in the same order.
        tables: paths of what is written.
        level: of the intervals, for the caption.

    Raises:
        CopyingComparisonError: not one table for each model.
        PaperTableError: a path whose name or format is unknown.
        ModelError: a model's config.json is missing or damaged.
        TableError: a table is missing or damaged.
    """
    for name, paths in (("class_counts", class_counts), ("scores", scores), ("control_tests", control_tests)):
        if len(paths) != len(models):
            raise CopyingComparisonError(
                f"{len(models)} models, but {len(paths)} tables {name}: give one for each model"
            )
    names = list(models)
    scored = dict(zip(names, (read_table(path, "copying_scores") for path in scores), strict=True))
    tested = dict(zip(names, (read_table(path, "control_tests") for path in control_tests), strict=True))
    counted = dict(zip(names, (read_table(path, "class_counts") for path in class_counts), strict=True))
    found = {
        "global_scores": compared_scores(scored, tested, facts, level),
        "models": models_table(models, counted, facts),
    }
    write_paper_tables({name: [table] for name, table in found.items()}, tables)


def compared_scores(
    scores: Mapping[str, pl.DataFrame],
    tests: Mapping[str, pl.DataFrame],
    facts: str,
    level: float,
    controls: str = "uniform",
) -> Table:
    """Global transition score with its interval, p-value and percentile among `controls`: replacements by models."""
    columns = [TableColumn("set", left=True), TableColumn("replaced by", left=True)]
    for model in scores:
        columns += [TableColumn("GTS", model), TableColumn("p", model), TableColumn("percentile", model)]
    sets = _union(selections(frame) for frame in scores.values())
    ways = _union(replacements(frame) for frame in scores.values())
    sections = []
    for name in sets:
        rows = []
        for way in ways:
            cells, intervals = [], []
            for model, frame in scores.items():
                own = frame.filter(set=name, kind="selection", replacement=way, measure="gts")
                mine = tests[model].filter(set=name, replacement=way, controls=controls)
                test, published = mine.filter(measure="gts"), mine.filter(measure="invariance")
                cells += [
                    percent(own["value"][0] if own.height else None),
                    p_value(test["p_value"][0] if test.height else None),
                    fixed(published["percentile"][0] if published.height else None, 1),
                ]
                ends = own.select("value_low", "value_high").row(0) if own.height else (None, None)
                intervals += ["" if None in ends else f"[{percent(ends[0])}, {percent(ends[1])}]", "", ""]
            rows.append(Row((words(name) if not rows else "", way, *cells)))
            if any(intervals):
                rows.append(Row(("", "", *intervals), minor=True))
        sections.append(tuple(rows))
    caption = (
        "Global transition score (GTS), the share of prompts whose label changes, in percent, by replacement and "
        f"model, and below it its {level_words(level)} interval ({INTERVALS}); p = (1 + b)/(1 + n) and percentile "
        f"among the {CONTROLS[controls]} control sets. Facts {facts}."
    )
    title = "Global transition scores by model"
    return Table(tuple(columns), tuple(sections), title, caption, label(facts, "models-scores"), "No selection.")


def models_table(models: Mapping[str, ModelSpec], class_counts: Mapping[str, pl.DataFrame], facts: str) -> Table:
    """Layers, widths, vocabulary, norm, activation function; prompts and labels before ablation."""
    columns = [TableColumn("model", left=True), TableColumn("family", left=True), TableColumn("layers")]
    columns += [TableColumn("d"), TableColumn("MLP"), TableColumn("vocabulary")]
    columns += [TableColumn("norm", left=True), TableColumn("activation", left=True), TableColumn("prompts")]
    columns += [TableColumn(name, "labels (%)") for name in LABELS]
    rows = []
    for model, spec in models.items():
        found = model_dimensions(spec)
        counts = class_counts[model].filter(subset="all")
        shares = dict(counts.select("label", "share").iter_rows())
        cells = [model, found.family or MISSING]
        cells += [count(size) for size in (found.layers, found.d_model, found.d_mlp, found.vocabulary)]
        cells += [found.norm or MISSING, found.activation or MISSING]
        cells += [count(counts["n_prompts"][0] if counts.height else None)]
        rows.append(Row((*cells, *(percent(shares.get(name), 1) for name in LABELS))))
    caption = (
        "Models: layers, width d of the residual stream, neurons of a layer's MLP, rows of the unembedding, norm and "
        f"activation function, as their configurations say; conflict prompts about facts {facts}, and their labels "
        f"before ablation. {MEANINGS}."
    )
    sections = (tuple(rows),) if rows else ()
    return Table(tuple(columns), sections, "Models", caption, label(facts, "models"), "No models.")


def _union(lists: Iterable[list[str]]) -> list[str]:
    """What any of the lists holds, each once, in the order of their first appearance."""
    return list(dict.fromkeys(item for found in lists for item in found))
