"""Rule `write_copying_tables`: what a study of context copying found in one model, as tables for papers.

transitions        labels before and after the shown replacement, beside the control sets
transition_counts  the same in numbers of prompts, for every replacement
global_scores      global transition score, invariance and conversion ratios by replacement, with p-values
selected_neurons   the sets that were replaced: rho, LogitVar and norm of each neuron
examples           prompts whose label changes under the shown replacement
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from neuronlab.paper_tables import write_paper_tables
from neuronlab.schemas_knowledge import LABELS
from neuronlab.table_cells import (
    ARROW,
    MINUS,
    PLUS_MINUS,
    Row,
    Table,
    TableColumn,
    count,
    fixed,
    label,
    level_words,
    mean_and_sd,
    p_value,
    percent,
    percent_interval,
    scientific,
)
from neuronlab.tables import read_table

CONTROLS = {"uniform": "uniform", "norm_matched": "norm-matched", "synthetic": "synthetic"}
SETS = {"token_frequency": "token-frequency", "induction_driven": "induction-driven"}
INTERVALS = "bootstrap over facts; Wilson's with their design effect where fewer than ten differ"
MEANINGS = "CK: the answer is the context's object, PK: the model's own, ND: neither"


def write_copying_tables(
    *,
    model: str,
    facts: str,
    class_counts: str | Path,
    transitions: str | Path,
    scores: str | Path,
    control_tests: str | Path,
    sets: str | Path,
    neurons: str | Path,
    null_space: str | Path,
    examples: str | Path,
    tables: Sequence[str | Path],
    replacement: str,
    level: float,
) -> None:
    """Write the tables whose paths are given: `<name>.tex` or `<name>.html`.

    Args:
        model, facts: names that captions and labels carry.
        class_counts, ..., examples: paths of those tables; `sets` is sets.parquet, the sets that were replaced.
        replacement: the one shown in `transitions` and `examples`.
        level: of the intervals, for the captions.

    Raises:
        PaperTableError: a path whose name or format is unknown.
        TableError: a table is missing or damaged.
    """
    counts = read_table(class_counts, "class_counts")
    moves = read_table(transitions, "transitions")
    where = f"Model {model}, facts {facts}, {_sizes(counts)}"
    named = (model, facts)
    tests = read_table(control_tests, "control_tests")
    weights = (read_table(neurons, "neurons"), read_table(null_space, "null_space"))
    found = {
        "transitions": transitions_table(moves, replacement, level, where, named),
        "transition_counts": counts_table(moves, where, named),
        "global_scores": scores_table(read_table(scores, "copying_scores"), tests, level, where, named),
        "selected_neurons": neurons_table(read_table(sets, "copying_sets"), *weights, named),
        "examples": examples_table(read_table(examples, "copying_examples"), replacement, where, named),
    }
    write_paper_tables({name: [table] for name, table in found.items()}, tables)


def transitions_table(
    transitions: pl.DataFrame, replacement: str, level: float, where: str, named: Sequence[str]
) -> Table:
    """Shares of each clean label's prompts that get each label, and below them mean and sd over the control sets."""
    columns = [TableColumn("set", left=True), TableColumn("before", left=True), TableColumn("n")]
    columns += [TableColumn(after, "after (%)") for after in LABELS]
    shown = transitions.filter(replacement=replacement)
    kinds = present_controls(shown)
    sections = []
    for name in selections(shown):
        own = shown.filter(set=name, kind="selection")
        controls = shown.filter(control_of=name)
        rows = []
        for before in LABELS:
            cells = [_one(own, before=before, after=after) for after in LABELS]
            shares = [percent_interval(*(cell[c] for c in ("share", "share_low", "share_high"))) for cell in cells]
            rows.append(Row((words(name) if not rows else "", before, count(cells[0]["n_before"]), *shares)))
            for kind in kinds:
                of_kind = controls.filter(kind=kind, before=before)
                values = [of_kind.filter(after=after)["share"].drop_nulls().to_list() for after in LABELS]
                cells_of_kind = [mean_and_sd(found) for found in values]
                rows.append(Row(("", f"{CONTROLS[kind]} controls", "", *cells_of_kind), minor=True))
        sections.append(tuple(rows))
    numbers = _numbers_of_controls(shown, kinds)
    caption = (
        f"Labels before and after {replacing(replacement)}: shares of the n prompts with each label before, in "
        f"percent, with {level_words(level)} intervals ({INTERVALS})"
        f"{f'; in brackets mean {PLUS_MINUS} standard deviation over control sets ({numbers})' if numbers else ''}. "
        f"{MEANINGS}. {where}."
    )
    return Table(tuple(columns), tuple(sections), "Transitions between labels", caption, label(*named, "transitions"))


def counts_table(transitions: pl.DataFrame, where: str, named: Sequence[str]) -> Table:
    """Numbers of prompts by label before and after, for every selection and replacement."""
    columns = [TableColumn("set", left=True), TableColumn("replaced by", left=True), TableColumn("before", left=True)]
    columns += [TableColumn("n"), *(TableColumn(after, "after") for after in LABELS)]
    sections = []
    for name in selections(transitions):
        for place, replacement in enumerate(replacements(transitions)):
            own = transitions.filter(set=name, kind="selection", replacement=replacement)
            rows = []
            for before in LABELS:
                cells = [_one(own, before=before, after=after) for after in LABELS]
                head = ("" if place or rows else words(name), "" if rows else replacement, before)
                rows.append(Row((*head, count(cells[0]["n_before"]), *(count(cell["n"]) for cell in cells))))
            sections.append(tuple(rows))
    caption = f"Numbers of prompts by their label before and after a replacement. {MEANINGS}. {where}."
    title = "Transitions between labels, in prompts"
    return Table(tuple(columns), tuple(sections), title, caption, label(*named, "transition-counts"))


def scores_table(scores: pl.DataFrame, tests: pl.DataFrame, level: float, where: str, named: Sequence[str]) -> Table:
    """One row for every selection and replacement, its p-values below it, one for each kind of control."""
    shares = {"invariance": "invariance", "cr_ck": "to CK", "cr_nd": "to ND", "cr_pk": "to PK"}
    columns = [TableColumn("set", left=True), TableColumn("replaced by", left=True), TableColumn("n")]
    columns += [TableColumn("global transition score"), TableColumn("invariance")]
    columns += [TableColumn(shares[measure], "conversion ratio") for measure in ("cr_ck", "cr_nd", "cr_pk")]
    kinds = [kind for kind in CONTROLS if kind in tests["controls"].to_list()]
    sections = []
    for name in selections(scores):
        rows = []
        for replacement in replacements(scores):
            own = scores.filter(set=name, kind="selection", replacement=replacement)
            gts = _one(own, measure="gts")
            values = [percent_interval(*(gts[c] for c in ("value", "value_low", "value_high")))]
            values += [percent(_one(own, measure=measure)["value"]) for measure in shares]
            rows.append(Row((words(name) if not rows else "", replacement, count(gts["n_eligible"]), *values)))
            for kind in kinds:
                of_kind = tests.filter(set=name, replacement=replacement, controls=kind)
                ps = [p_value(_one(of_kind, measure=measure)["p_value"]) for measure in ("gts", *shares)]
                rows.append(Row(("", f"p, {CONTROLS[kind]}", "", *ps), minor=True))
        sections.append(tuple(rows))
    caption = (
        "Scores by replacement, in percent: the global transition score is the share of the n prompts whose label "
        f"changes (with its {level_words(level)} interval: {INTERVALS}), invariance the rest, a conversion "
        "ratio the share of the prompts without a label that get it. p = (1 + b)/(1 + n), where b of n control sets "
        f"have a value at least as large (invariance: as small). {MEANINGS}. {where}."
    )
    return Table(tuple(columns), tuple(sections), "Global scores by replacement", caption, label(*named, "scores"))


def match_words(sets: pl.DataFrame) -> str:
    """How near the norm-matched controls come to the norms of the neurons that they stand for."""
    ratios = sets.filter(kind="norm_matched")["norm_ratio"].drop_nulls()
    if not len(ratios):
        return ""
    low, middle, high = (ratios.quantile(q, interpolation="linear") for q in (0.05, 0.5, 0.95))
    return (
        f" Norm-matched control neurons have {middle:.2f} times the norm of the neuron that they stand for (median; "
        f"5 to 95 %: {low:.2f} to {high:.2f})."
    )


def neurons_table(sets: pl.DataFrame, neurons: pl.DataFrame, null_space: pl.DataFrame, named: Sequence[str]) -> Table:
    """Norm, LogitVar and rho (for each size of the null space) of the neurons that were replaced."""
    sizes = null_space.select("k", "k_rule").unique().sort("k_rule", "k", descending=[True, False]).rows()
    columns = [TableColumn("set", left=True), TableColumn("neuron"), TableColumn("norm"), TableColumn("LogitVar")]
    for k, rule in sizes:
        columns.append(
            TableColumn(f"k = {k}{', automatic' if rule == 'automatic' else ''}", "\N{GREEK SMALL LETTER RHO}")
        )
    place = ["layer", "neuron"]
    chosen = sets.filter(kind="selection").sort("set", "rank")
    chosen = chosen.join(neurons.select(*place, "logit_var"), on=place, how="left", maintain_order="left")
    rhos = {(row["layer"], row["neuron"], row["k"], row["k_rule"]): row["rho"] for row in null_space.to_dicts()}
    sections = []
    for name in selections(sets):
        rows = []
        for row in chosen.filter(set=name).iter_rows(named=True):
            cells = [words(name) if not rows else "", f"{row['layer']}.{row['neuron']}"]
            cells += [fixed(row["norm"], 3), scientific(row["logit_var"])]
            cells += [fixed(rhos.get((row["layer"], row["neuron"], k, rule)), 4) for k, rule in sizes]
            rows.append(Row(tuple(cells)))
        sections.append(tuple(rows))
    caption = (
        "Replaced neurons, as layer.neuron: norm of the output weights, LogitVar (variance over the vocabulary of "
        "their cosines with the columns of the unembedding), and \N{GREEK SMALL LETTER RHO}, the share of the norm in "
        f"the k bottom singular directions of the unembedding. Model {named[0]}.{match_words(sets)}"
    )
    title = "Selected neurons"
    return Table(tuple(columns), tuple(sections), title, caption, label(*named, "neurons"), "No neurons were selected.")


def examples_table(examples: pl.DataFrame, replacement: str, where: str, named: Sequence[str]) -> Table:
    """Prompts whose label changes, with what the model writes before and after, and the entropies."""
    columns = (
        TableColumn("prompt", text=True, width=0.26),
        TableColumn("context says", text=True, width=0.13),
        TableColumn("model says", text=True, width=0.13),
        TableColumn("before", text=True, width=0.14),
        TableColumn("after", text=True, width=0.14),
        TableColumn("H (nats)", left=True),
    )
    shown = examples.filter(replacement=replacement)
    sections = []
    for name in shown["set"].unique(maintain_order=True).to_list():
        rows = [Row((words(name),))]
        for row in shown.filter(set=name).iter_rows(named=True):
            entropies = f"{row['entropy_before']:.2f} {ARROW} {row['entropy_after']:.2f}"
            texts = (f"{row['before']}: {row['text_before'].strip()}", f"{row['after']}: {row['text_after'].strip()}")
            rows.append(Row((row["text"], row["counter"], row["answer"], *texts, entropies)))
        sections.append(tuple(rows))
    caption = (
        f"Prompts whose label changes when {replacing(replacement)}: what the context says, what the model says by "
        "itself, label and continuation before and after, and the entropy H at the prompt's end. "
        f"{MEANINGS}. {where}."
    )
    title = "Prompts whose label changes"
    return Table(columns, tuple(sections), title, caption, label(*named, "examples"), "No label changes.")


def selections(frame: pl.DataFrame) -> list[str]:
    """Selections in the order of the table."""
    return frame.filter(kind="selection")["set"].unique(maintain_order=True).to_list()


def replacements(frame: pl.DataFrame) -> list[str]:
    """Replacements in the order of the table, without doses and the clean model."""
    names = frame["replacement"].unique(maintain_order=True).to_list()
    return [name for name in names if name not in ("dose", "none")]


def present_controls(frame: pl.DataFrame) -> list[str]:
    """Kinds of controls that there are, in the order of `CONTROLS`."""
    return [kind for kind in CONTROLS if kind in frame["kind"].to_list()]


def words(name: str) -> str:
    """A set's name as a paper would have it."""
    return SETS.get(name, name.replace("_", " "))


def replacing(replacement: str) -> str:
    """What is done to the neurons, within a sentence."""
    return f"activations are replaced ({replacement.replace('-', MINUS)})"


def _numbers_of_controls(frame: pl.DataFrame, kinds: Sequence[str]) -> str:
    numbers = {kind: frame.filter(kind=kind).group_by("control_of").agg(n=pl.col("set").n_unique()) for kind in kinds}
    return ", ".join(f"{max(found['n'])} {CONTROLS[kind]}" for kind, found in numbers.items() if found.height)


def _sizes(class_counts: pl.DataFrame) -> str:
    rows = class_counts.filter(subset="all")
    if rows.is_empty():
        return "no prompts"
    return f"{count(rows['n_prompts'][0])} prompts about {count(rows['n_facts'][0])} facts"


def _one(frame: pl.DataFrame, **values: Any) -> dict[str, Any]:
    """The row with these values; every column missing where there is none."""
    rows = frame.filter(**values)
    return rows.row(0, named=True) if rows.height else dict.fromkeys(frame.columns)
