"""Surveys put together, training steps read from revisions, and the three figures on every kind of comparison."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from neuronlab.comparison import TABLES, ComparisonError, compare_models, training_step
from neuronlab.figures import emergence, models, saving, spectra
from neuronlab.figures.checkpoints import short_step, training
from neuronlab.tables import TableError, read_table, write_table

D, N = 40, 30
RUN = ["demo@step_000064", "demo@step_001024", "demo@step_004096", "demo"]
QUANTITIES = (
    "loss",
    "entropy",
    "accuracy",
    "induction_head",
    "entropy_neurons",
    "rho_beyond_chance",
    "frequency_neurons",
    "frequency_chance",
    "max_rho",
    "max_m_loss",
    "max_m_entropy",
    "max_m_freq_loss",
    "null_space_ratio",
)


def survey(model: str, *, silent: bool = False) -> dict[str, pl.DataFrame]:
    """Made-up tables of one survey; `silent`: no neuron has an effect, one writes nothing."""
    rng = np.random.default_rng(sum(map(ord, model)))
    none = pl.Series([None] * N, dtype=pl.Float64)
    rho = pl.Series(rng.uniform(0.05, 0.9, N))
    neurons = pl.DataFrame(
        {
            "layer": [1] * N,
            "neuron": range(N),
            "norm": rng.uniform(0.5, 3, N),
            "logit_var": none if silent else pl.Series(rng.uniform(1e-3, 1e-2, N)),
            "rho": none if silent else rho,
            "rho_p_value": none if silent else pl.Series(rng.uniform(size=N)),
            "unembed_gain": none if silent else pl.Series(rng.uniform(0.4, 2, N)),
            "frequency_cosine": rng.uniform(-0.6, 0.6, N),
            **{name: rng.uniform(1e-4, 1e-2, N) * (not silent) for name in ("te_loss", "te_entropy", "te_kl")},
            **{
                name: none if silent else pl.Series(rng.uniform(-2, 0.9, N))
                for name in ("m_loss", "m_entropy", "m_freq_loss")
            },
        }
    )
    value = rng.uniform(0.1, 0.9, len(QUANTITIES))
    summary = pl.DataFrame(
        {"quantity": QUANTITIES, "n": [100] * len(value), "value": value}
        | {"value_low": value - 0.05, "value_high": value + 0.05}
    )
    if silent:
        missing = pl.col("quantity").str.starts_with("max_")
        summary = summary.with_columns(pl.when(~missing).then(pl.col("^value.*$")))
    values = np.sort(rng.uniform(0.5, 5, D))[::-1].copy()
    values[-1] = 0.0
    return {
        "survey_neurons": neurons,
        "survey_summary": summary,
        "survey_spectrum": pl.DataFrame({"index": range(D), "singular_value": values}),
    }


def write_surveys(folder: Path, names: Sequence[str], *, silent: bool = False) -> dict[str, list[Path]]:
    paths: dict[str, list[Path]] = {table: [] for table in TABLES}
    for name in names:
        for table, frame in survey(name, silent=silent).items():
            paths[table].append(folder / name / f"{table}.parquet")
            write_table(frame, paths[table][-1], table)
    return paths


def compare(folder: Path, names: Sequence[str], *, silent: bool = False) -> dict[str, pl.DataFrame]:
    paths = write_surveys(folder, names, silent=silent)
    outputs = {name: folder / f"{name}.parquet" for name in TABLES.values()}
    compare_models(
        models=names,
        neurons=paths["survey_neurons"],
        summaries=paths["survey_summary"],
        spectra=paths["survey_spectrum"],
        **outputs,
    )
    return {name: read_table(path, name) for name, path in outputs.items()}


def selection(*sets: tuple[str, str, list[int]], layer: int = 1) -> pl.DataFrame:
    """A selection table of sets given as name, kind, neurons."""
    rows = [
        (name, kind, "rule", None if kind == "selection" else "entropy", layer, neuron, rank, None, None)
        for name, kind, neurons in sets
        for rank, neuron in enumerate(neurons)
    ]
    names = ["set", "kind", "rule", "control_of", "layer", "neuron", "rank", "matched", "norm_ratio"]
    schema = dict(zip(names, [pl.String] * 4 + [pl.Int32] * 4 + [pl.Float64], strict=True))
    return pl.DataFrame(rows, schema=schema, orient="row")


@pytest.mark.parametrize(
    ("model", "step"),
    [
        ("demo@step_001024", 1024),
        ("pythia-160m@step143000", 143000),
        ("pythia-160m@step0", 0),
        ("olmo@stage1-step1000-tokens4B", 1000),
        ("local@checkpoint-500", 500),
        ("local@0042", 42),
        ("local@1234567", 1234567),
        ("demo", None),
        ("gpt2", None),
        ("Llama-3-8B", None),
        ("demo@main", None),
        ("hub@9a4f1c0b2d3e5f60718293a4b5c6d7e8f9012345", None),
        ("hub@e4f2a917", None),
    ],
)
def test_the_step_is_read_from_the_revision_alone(model: str, step: int | None) -> None:
    assert training_step(model) == step


def test_surveys_stand_one_below_the_other(tmp_path: Path) -> None:
    made = compare(tmp_path, RUN)
    neurons = made["comparison_neurons"]
    assert neurons["model"].unique(maintain_order=True).to_list() == RUN
    assert neurons.unique(["model", "step"], maintain_order=True)["step"].to_list() == [64, 1024, 4096, None]
    for name in RUN:
        for table, combined in zip(TABLES, made.values(), strict=True):
            rows = combined.filter(pl.col("model") == name).drop("model", "step")
            assert rows.equals(read_table(tmp_path / name / f"{table}.parquet", table))


def test_surveys_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    paths = write_surveys(tmp_path, RUN[:2])
    given = {"neurons": paths["survey_neurons"], "summaries": paths["survey_summary"]}
    given["spectra"] = paths["survey_spectrum"]
    outputs = {name: tmp_path / "out" / f"{name}.parquet" for name in TABLES.values()}
    with pytest.raises(ComparisonError, match="3 models, but 2 tables"):
        compare_models(models=RUN[:3], **given, **outputs)
    with pytest.raises(ComparisonError, match="twice"):
        compare_models(models=[RUN[0], RUN[0]], **given, **outputs)
    (tmp_path / RUN[1] / "survey_summary.parquet").unlink()
    with pytest.raises(TableError, match=r"survey_summary\.parquet"):
        compare_models(models=RUN[:2], **given, **outputs)


def listed(*names: str) -> pl.DataFrame:
    return pl.DataFrame(
        {"model": names, "step": [training_step(n) for n in names]}, schema_overrides={"step": pl.Int64}
    )


def test_checkpoints_stand_in_order_with_both_ends_beside_the_axis() -> None:
    run = training(listed("m", "m@step8", "m@step0", "m@step512", "m@step2", "other@step1"), "m")
    assert run is not None
    assert run.places["model"].to_list() == ["m@step0", "m@step2", "m@step8", "m@step512", "m"]
    place = run.places["place"].to_numpy()
    np.testing.assert_allclose(place[1:4], [1, 3, 9])
    assert place[0] < 1
    assert place[4] > 9
    assert run.places["label"].to_list() == ["0", "2", "8", "512", "final"]
    assert run.others == ("other@step1",)
    assert run.domain()[0] < place[0]
    assert place[-1] < run.domain()[1]


def test_the_reference_decides_which_training_is_drawn() -> None:
    two = listed("a@step1", "a@step2", "b@step1", "b@step2", "b", "c")
    assert training(two, "b").base == "b"
    assert training(two, "b@step1").base == "b"
    assert training(two, "c").base == "a"
    assert training(two).base == "a"
    assert training(listed("a@step1", "b@step2", "a"), "a") is None
    assert training(listed("gpt2", "demo"), "demo") is None
    assert training(listed("a@step1", "a@main", "a"), "a") is None


def test_steps_are_written_shortly() -> None:
    assert [short_step(s) for s in (0, 64, 1024, 9999, 10_000, 143_000, 1_200_000)] == [
        "0",
        "64",
        "1,024",
        "9,999",
        "10k",
        "143k",
        "1.2M",
    ]


CASES = {
    "two models": ["gpt2", "demo"],
    "one model": ["demo"],
    "twelve models": [f"model-with-a-rather-long-name-{i}" for i in range(12)],
}
SELECTIONS = {
    "chosen": selection(("entropy", "selection", [1, 2]), ("token_frequency", "selection", [4]), ("u", "uniform", [7])),
    "empty": selection(),
    "another layer": selection(("entropy", "selection", [1, 2]), layer=0),
}


def draw_all(folder: Path, made: dict[str, pl.DataFrame], chosen: pl.DataFrame, reference: str) -> dict[str, str]:
    """The three figures by their rule functions, as text of their svg."""
    write_table(chosen, folder / "selection.parquet", "selection")
    path = {name: folder / f"{name}.parquet" for name in made}
    targets = {name: [folder / f"{name}.svg"] for name in ("e", "m", "s")}
    common = {"comparison": "side-by-side", "text": "evaluation"}
    tables = {"neurons": path["comparison_neurons"], "summary": path["comparison_summary"]}
    selections = [folder / "selection.parquet"]
    emergence.draw(**tables, selections=selections, figures=targets["e"], reference=reference, **common)
    models.draw(**tables, figures=targets["m"], **common)
    spectra.draw(spectra=path["comparison_spectra"], figures=targets["s"], comparison="side-by-side")
    return {name: files[0].read_text() for name, files in targets.items()}


def test_figures_of_checkpoints(tmp_path: Path) -> None:
    drawn = draw_all(tmp_path, compare(tmp_path, RUN), SELECTIONS["chosen"], "demo")
    assert all("side-by-side" in svg for svg in drawn.values())
    assert all(f">{name}<" in drawn["m"] and f">{name}<" in drawn["s"] for name in RUN)
    assert all(f">{label}<" in drawn["e"] for label in ("64", "1,024", "final"))
    assert "entropy neurons (2)" in drawn["e"]
    assert "nats" in drawn["e"]
    assert "4 values exactly null" in drawn["s"]


@pytest.mark.parametrize("case", CASES)
def test_figures_of_other_comparisons(case: str, tmp_path: Path) -> None:
    names = CASES[case]
    drawn = draw_all(tmp_path, compare(tmp_path, names), SELECTIONS["chosen"], names[-1])
    assert "no model has two checkpoints" in drawn["e"]
    assert all(f">{name}<" in drawn["m"] and f">{name}<" in drawn["s"] for name in names)


def stated(names: Sequence[str], chosen: pl.DataFrame | None, reference: str) -> str:
    """What the figure of emergence says of itself."""
    run = training(listed(*names), reference)
    neurons = pl.concat([survey(name)["survey_neurons"] for name in names])
    followed = emergence.chosen_neurons(neurons, chosen, run, reference)
    return " | ".join(line for line in emergence.statements(run, followed, reference, 0.9) if line)


@pytest.mark.parametrize("chosen", [*SELECTIONS, None])
def test_emergence_with_and_without_selected_neurons(chosen: str | None) -> None:
    statement = stated(RUN, None if chosen is None else SELECTIONS[chosen], "demo")
    assert ("no selected neurons to follow" in statement) == (chosen != "chosen")
    assert ("neurons selected in demo, thin; bold" in statement) == (chosen == "chosen")
    assert "90 % intervals" in statement
    assert "step 0" not in statement


def test_what_cannot_be_drawn_is_stated() -> None:
    several = ["p@step0", "p@step1", "p@step143000", "q@step5", "r"]
    statement = stated(several, SELECTIONS["chosen"], "p@step1")
    assert "step 0 beside the axis" in statement
    assert "another training: q@step5, r" in statement
    assert "neurons selected in p@step1" in statement
    assert "final" not in statement
    assert "no selected neurons" in stated(several, SELECTIONS["chosen"], "r")
    crowd = selection(("entropy", "selection", list(range(13))))
    assert "a set's first 12" in stated(RUN, crowd, "demo")


def test_missing_values_are_drawn_as_missing(tmp_path: Path) -> None:
    drawn = draw_all(tmp_path, compare(tmp_path, RUN, silent=True), SELECTIONS["empty"], "demo")
    assert "16 values missing" in drawn["m"]
    assert "NaN" not in drawn["e"]
    assert "NaN" not in drawn["m"]


def test_paths_of_neurons_by_hand(tmp_path: Path) -> None:
    made = compare(tmp_path, RUN)
    run = training(made["comparison_summary"], "demo")
    chosen = emergence.chosen_neurons(made["comparison_neurons"], SELECTIONS["chosen"], run, "demo")
    spec = next(p for p in emergence.PATHS if p.column == "frequency_cosine")
    band, lines, medians = emergence.prepare_paths(made["comparison_neurons"], run, chosen, spec)
    end = run.places["place"][-1]
    values = survey("demo")["survey_neurons"]["frequency_cosine"].abs().to_numpy()
    here = band.filter(pl.col("place") == end).row(0, named=True)
    assert here["low"] == pytest.approx(np.quantile(values, 0.05))
    assert here["middle"] == pytest.approx(np.median(values))
    assert here["high"] == pytest.approx(np.quantile(values, 0.95))
    followed = lines.filter(pl.col("place") == end).sort("label")
    assert followed["label"].to_list() == ["1.1", "1.2", "1.4"]
    np.testing.assert_allclose(followed["value"], values[[1, 2, 4]])
    entropy = medians.filter((pl.col("place") == end) & (pl.col("group") == "entropy neurons"))
    assert entropy["value"].item() == pytest.approx(values[[1, 2]].mean())


def test_spectra_are_relative_to_their_model(tmp_path: Path) -> None:
    made = compare(tmp_path, ["x", "y"])["comparison_spectra"]
    wide = pl.concat(
        [
            made,
            made.filter(pl.col("model") == "y").with_columns(
                model=pl.lit("z"), singular_value=pl.col("singular_value") * 7
            ),
        ]
    )
    frame, null = spectra.prepare(wide)
    assert null == 3
    y, z = (frame.filter(pl.col("model") == name) for name in "yz")
    np.testing.assert_allclose(y["value"], z["value"])
    assert np.median(y["value"]) == pytest.approx(1)
    np.testing.assert_allclose(y["place"], (np.arange(D - 1) + 0.5) / (D - 1))
    run_colours = spectra.colours(listed(*RUN), RUN)
    assert len(set(run_colours)) == len(RUN)
    assert spectra.colours(listed("x", "y"), ["x", "y"]) == list(spectra.PALETTE[:2])


def test_the_same_tables_give_the_same_bytes(tmp_path: Path) -> None:
    made = compare(tmp_path, RUN)["comparison_spectra"]
    for run in ("first", "second"):
        saving.save(spectra.chart(made, comparison="c"), [tmp_path / f"{run}.{suffix}" for suffix in ("svg", "png")])
    for suffix in ("svg", "png"):
        assert (tmp_path / f"first.{suffix}").read_bytes() == (tmp_path / f"second.{suffix}").read_bytes()
