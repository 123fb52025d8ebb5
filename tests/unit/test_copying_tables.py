"""Tables for papers about context copying: their numbers are those of the study, whatever is missing."""

from __future__ import annotations

from pathlib import Path

import fake_copying
import numpy as np
import polars as pl
import pytest
from latex import body_rows, check_structure, compile_tex
from neuronlab.copying_comparison import CopyingComparisonError, compare_copying, compared_scores, models_table
from neuronlab.copying_tables import (
    counts_table,
    examples_table,
    neurons_table,
    scores_table,
    transitions_table,
    write_copying_tables,
)
from neuronlab.model_files import ModelSpec
from neuronlab.schemas_knowledge import LABELS
from neuronlab.table_cells import MISSING, Table
from neuronlab.tables import check_frame, write_table

NAMES = ("transitions", "transition_counts", "global_scores", "selected_neurons", "examples")
INPUTS = {
    "class_counts": "class_counts",
    "transitions": "transitions",
    "scores": "copying_scores",
    "control_tests": "control_tests",
    "sets": "copying_sets",
    "examples": "copying_examples",
}
WHERE = ("Model demo, facts demo", ("demo", "demo"))
EMPTY_CLASSES = fake_copying.World(shares=(1, 0, 0), flip=0.0)


@pytest.fixture(scope="module")
def world() -> fake_copying.World:
    return fake_copying.World(n_facts=40, uniform=4, norm_matched=3, synthetic=3)


@pytest.fixture(scope="module")
def study(world: fake_copying.World) -> dict[str, pl.DataFrame]:
    return fake_copying.tables(world)


def weights(n: int = 500) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Tables "neurons" and "null_space" of a model with two layers; rho is missing for a silent neuron."""
    rng = np.random.default_rng(0)
    place = {"layer": [0] * n + [1] * n, "neuron": [*range(n)] * 2}
    columns = ("norm", "norm_in", "logit_var", "vocab_mean", "vocab_var", "vocab_skew", "vocab_kurt", "unembed_gain")
    neurons = pl.DataFrame(place | {name: rng.uniform(1e-5, 1, 2 * n) for name in columns})
    sizes = []
    for k, rule in ((8, "automatic"), (4, "configured"), (12, "configured")):
        rho = [None if i % n == 7 else float(value) for i, value in enumerate(rng.uniform(0, 1, 2 * n))]
        more = {"k": k, "k_rule": rule, "rho": rho, "rho_excess": rho, "rho_p_value": rho}
        sizes.append(pl.DataFrame(place).with_columns(**{c: pl.lit(v) for c, v in more.items() if c[:3] != "rho"}))
        sizes[-1] = sizes[-1].with_columns(**{c: pl.Series(v) for c, v in more.items() if c[:3] == "rho"})
    return check_frame(neurons, "neurons"), check_frame(pl.concat(sizes), "null_space")


def cells(table: Table) -> list[list[str]]:
    """All cells, set names and the like filled down."""
    rows, before = [], ["", ""]
    for section in table.sections:
        for row in section:
            found = list(row.cells)
            if not row.heading:
                found[:2] = [cell or last for cell, last in zip(found[:2], before, strict=True)]
                before = found[:2]
            rows.append(found)
    return rows


def share(frame: pl.DataFrame, **values: object) -> float | None:
    return frame.filter(**values)["share"][0]


def test_transition_shares_intervals_and_controls_are_those_of_the_study(study: dict[str, pl.DataFrame]) -> None:
    moves = study["transitions"]
    rows = iter(cells(transitions_table(moves, "mean", 0.95, *WHERE)))
    for name, words in (("entropy", "entropy"), ("token_frequency", "token-frequency")):
        for before in LABELS:
            own = moves.filter(set=name, replacement="mean", before=before)
            found = next(rows)
            assert found[:3] == [words, before, str(own["n_before"][0])]
            for cell, after in zip(found[3:], LABELS, strict=True):
                row = own.filter(after=after).row(0, named=True)
                numbers = [float(part) for part in cell.replace("[", "").replace("]", "").replace(",", "").split()]
                exact = [100 * row[c] for c in ("share", "share_low", "share_high")]
                assert numbers == pytest.approx(exact, abs=0.0051)
            for kind, size in (("uniform", 4), ("norm_matched", 3), ("synthetic", 3)):
                found = next(rows)
                assert found[1] == f"{kind.replace('_', '-')} controls"
                for cell, after in zip(found[3:], LABELS, strict=True):
                    controls = [f"{name}_{kind}_{i:03d}" for i in range(size)]
                    same = {"replacement": "mean", "before": before, "after": after}
                    values = [100 * share(moves, set=control, **same) for control in controls]
                    mean, sd = cell.strip("()").split(" ± ")
                    assert float(mean.lstrip("<>")) == pytest.approx(np.mean(values), abs=0.011)
                    assert float(sd.lstrip("<>")) == pytest.approx(np.std(values, ddof=1), abs=0.011)
    assert next(rows, None) is None


def test_transition_counts_add_up_to_the_prompts(study: dict[str, pl.DataFrame], world: fake_copying.World) -> None:
    table = counts_table(study["transitions"], *WHERE)
    rows = [row[3:] for row in cells(table)]
    assert len(rows) == 2 * 3 * 3  # selections, replacements, labels
    for block in np.array(rows).astype(int).reshape(6, 3, 4):
        assert (block[:, 0] == block[:, 1:].sum(axis=1)).all()
        assert block[:, 0].sum() == world.n_prompts


def test_scores_have_a_row_for_every_selection_and_replacement_with_p_per_kind_of_control(
    study: dict[str, pl.DataFrame],
) -> None:
    scores, tests = study["copying_scores"], study["control_tests"]
    table = scores_table(scores, tests, 0.95, *WHERE)
    shown = [row for section in table.sections for row in section if not row.minor]
    assert [row.cells[1] for row in shown] == ["mean", "median", "zero"] * 2
    measures = ("gts", "invariance", "cr_ck", "cr_nd", "cr_pk")
    for name, section in zip(("entropy", "token_frequency"), table.sections, strict=True):
        for place, replacement in enumerate(("mean", "median", "zero")):
            main, *minor = section[4 * place : 4 * place + 4]
            values = [float(cell.split()[0].lstrip("<>")) for cell in main.cells[3:]]
            exact = [scores.filter(set=name, replacement=replacement, measure=m)["value"][0] for m in measures]
            assert values == pytest.approx([100 * value for value in exact], abs=0.011)
            assert values[0] + values[1] == pytest.approx(100, abs=0.011)
            for row, kind in zip(minor, ("uniform", "norm_matched", "synthetic"), strict=True):
                of_kind = tests.filter(set=name, replacement=replacement, controls=kind)
                p = [of_kind.filter(measure=m)["p_value"][0] for m in measures]
                assert [float(cell) for cell in row.cells[3:]] == pytest.approx(p, abs=0.0006)


def test_nd_conversion_is_not_a_copy_of_pk_conversion(study: dict[str, pl.DataFrame]) -> None:
    """B defect 1: the printed ND bars were PK's."""
    scores = study["copying_scores"]
    marked = scores.with_columns(
        value=pl.when(measure="cr_nd").then(0.25).when(measure="cr_pk").then(0.5).otherwise("value")
    )
    row = scores_table(marked, study["control_tests"], 0.95, *WHERE).sections[0][0]
    assert row.cells[-2:] == ("25.00", "50.00")


def test_empty_classes_are_dashes_and_never_zeros() -> None:
    """B defect 12: a class without prompts has no shares."""
    study = fake_copying.tables(EMPTY_CLASSES)
    for row in cells(transitions_table(study["transitions"], "mean", 0.95, *WHERE)):
        if row[1] in ("ND", "PK"):
            assert row[2:] == ["0", MISSING, MISSING, MISSING]
    rows = cells(transitions_table(study["transitions"], "mean", 0.95, *WHERE))
    controls = rows[rows.index(next(row for row in rows if row[1] == "ND")) + 1]
    assert controls[3:] == [MISSING] * 3
    table = scores_table(study["copying_scores"], study["control_tests"], 0.95, *WHERE)
    assert table.sections[0][0].cells[5] == MISSING  # nothing can be converted to CK where all is CK


def test_selected_neurons_have_their_measures_at_every_size_of_the_null_space(study: dict[str, pl.DataFrame]) -> None:
    neurons, null_space = weights()
    sets = study["copying_sets"].with_columns(
        neuron=pl.when(pl.int_range(pl.len()) == 0).then(7).otherwise("neuron").cast(pl.Int32)
    )
    table = neurons_table(sets, neurons, null_space, ("demo", "demo"))
    assert [column.name for column in table.columns[4:]] == ["k = 4", "k = 12", "k = 8, automatic"]
    chosen = sets.filter(kind="selection").sort("set", "rank")
    for row, own in zip(cells(table), chosen.iter_rows(named=True), strict=True):
        place = {"layer": own["layer"], "neuron": own["neuron"]}
        assert row[1] == f"{own['layer']}.{own['neuron']}"
        assert row[2] == f"{own['norm']:.3f}"
        mantissa, _, power = row[3].partition(" \N{MULTIPLICATION SIGN} 10")
        exponent = int(power.translate(str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")) or 0)
        exact = neurons.filter(**place)["logit_var"][0]
        assert float(mantissa) * 10.0**exponent == pytest.approx(exact, rel=0.006)
        for cell, (k, rule) in zip(row[4:], ((4, "configured"), (12, "configured"), (8, "automatic")), strict=True):
            rho = null_space.filter(**place, k=k, k_rule=rule)["rho"][0]
            assert cell == (MISSING if rho is None else f"{rho:.4f}")
    assert cells(table)[0][4:] == [MISSING] * 3  # the silent neuron


def test_examples_show_prompt_labels_and_continuations(study: dict[str, pl.DataFrame]) -> None:
    examples = study["copying_examples"]
    table = examples_table(examples, "mean", *WHERE)
    shown = [row for row in cells(table) if len(row) > 1]
    assert len(shown) == examples.filter(replacement="mean").height > 0
    first = examples.filter(replacement="mean").row(0, named=True)
    assert shown[0][0] == first["text"]
    assert shown[0][3] == f"{first['before']}: {first['text_before'].strip()}"
    assert shown[0][4] == f"{first['after']}: {first['text_after'].strip()}"


def write_all(folder: Path, study: dict[str, pl.DataFrame], sets: pl.DataFrame) -> list[Path]:
    """All tables of one study, written by the rule."""
    for name, schema in INPUTS.items():
        frame = sets if name == "sets" else study[schema]
        write_table(frame, folder / f"{name}.parquet", schema)
    for name, frame in zip(("neurons", "null_space"), weights(), strict=True):
        write_table(frame, folder / f"{name}.parquet", name)
    outputs = [folder / "tables" / f"{name}.{suffix}" for name in NAMES for suffix in ("tex", "html")]
    inputs = {name: folder / f"{name}.parquet" for name in (*INPUTS, "neurons", "null_space")}
    write_copying_tables(
        model="demo@step_1", facts="my_facts", **inputs, tables=outputs, replacement="mean", level=0.95
    )
    return outputs


@pytest.mark.parametrize(
    "world",
    [
        fake_copying.World(n_facts=30, uniform=3, norm_matched=0, synthetic=2),
        EMPTY_CLASSES,
        fake_copying.World(n_facts=0),
        fake_copying.World(n_facts=10, selections=()),
    ],
    ids=["ordinary", "one class", "no prompts", "no selection"],
)
def test_all_tables_are_written_and_compile(tmp_path: Path, world: fake_copying.World) -> None:
    outputs = write_all(tmp_path, fake_copying.tables(world), world.copying_sets)
    texts = {path: path.read_text(encoding="utf-8") for path in outputs}
    for path, text in texts.items():
        assert not {"nan", "None", "null", "inf"} & set(text.replace("<", " ").replace("&", " ").split()), path
        if path.suffix == ".tex":
            check_structure(text)
            assert body_rows(text)
    again = write_all(tmp_path, fake_copying.tables(world), world.copying_sets)
    assert {path: path.read_text(encoding="utf-8") for path in again} == texts
    compile_tex(tmp_path, [path for path in outputs if path.suffix == ".tex"])


# Models side by side.


def compared(folder: Path, studies: dict[str, dict[str, pl.DataFrame]]) -> dict[str, str]:
    """The tables of a comparison, by file name."""
    paths: dict[str, list[Path]] = {name: [] for name in ("class_counts", "scores", "control_tests")}
    for model, study in studies.items():
        for name, files in paths.items():
            files.append(folder / f"{model}_{name}.parquet")
            write_table(study[INPUTS[name]], files[-1], INPUTS[name])
    outputs = [folder / f"{name}.{suffix}" for name in ("global_scores", "models") for suffix in ("tex", "html")]
    specs = {model: ModelSpec("demo", "demo") for model in studies}
    compare_copying(models=specs, facts="my_facts", **paths, tables=outputs, level=0.95)
    return {path.name: path.read_text(encoding="utf-8") for path in outputs}


def test_models_side_by_side(tmp_path: Path, study: dict[str, pl.DataFrame]) -> None:
    other = fake_copying.tables(
        fake_copying.World(n_facts=20, selections=("entropy",), replacements=("mean", "mode"), seed=3)
    )
    scores = {"demo_1": study["copying_scores"], "demo_2": other["copying_scores"]}
    tests = {"demo_1": study["control_tests"], "demo_2": other["control_tests"]}
    table = compared_scores(scores, tests, "my_facts", 0.95)
    found = {(row[0], row[1]): row for row in cells(table) if row[2][:1] not in ("", "[")}
    assert list(found) == [(s, r) for s in ("entropy", "token-frequency") for r in ("mean", "median", "zero", "mode")]
    for (name, replacement), row in found.items():
        for place, model in enumerate(scores):
            own = {"set": name.replace("-", "_"), "replacement": replacement, "measure": "gts"}
            value = scores[model].filter(**own)
            test = tests[model].filter(**own, controls="uniform")
            exact = [100 * value["value"][0], test["p_value"][0], test["percentile"][0]] if value.height else None
            got = row[2 + 3 * place : 5 + 3 * place]
            if exact is None:
                assert got == [MISSING] * 3
            else:
                assert [float(cell.lstrip("<>")) for cell in got] == pytest.approx(exact, abs=0.051)
    texts = compared(tmp_path, {"demo_1": study, "demo_2": other})
    for name, text in texts.items():
        if name.endswith(".tex"):
            check_structure(text)
    compile_tex(tmp_path, [tmp_path / name for name in texts if name.endswith(".tex")])


def test_models_table_has_dimensions_and_labels(study: dict[str, pl.DataFrame]) -> None:
    specs = {"mine": ModelSpec("demo", "demo")}
    table = models_table(specs, {"mine": study["class_counts"]}, "my_facts")
    (row,) = cells(table)
    assert row[:9] == ["mine", "gpt_neox", "2", "128", "1,024", "1,187", "LayerNorm", "GELU", "120"]
    assert sum(float(cell) for cell in row[9:]) == pytest.approx(100, abs=0.15)
    empty = models_table(specs, {"mine": study["class_counts"].clear()}, "my_facts")
    assert cells(empty)[0][8:] == [MISSING] * 4


def test_one_table_for_each_model() -> None:
    with pytest.raises(CopyingComparisonError, match="1 models, but 2 tables scores: give one for each model"):
        compare_copying(
            models={"a": ModelSpec("demo", "demo")},
            facts="f",
            class_counts=["x"],
            scores=["x", "y"],
            control_tests=["x"],
            tables=[],
            level=0.95,
        )
