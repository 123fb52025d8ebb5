"""Figures of jointly ablated sets: what is drawn and stated, with and without controls, and with nothing selected."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from neuronlab.figures import calibration, set_rows, temperature
from neuronlab.schemas import SCHEMAS
from neuronlab.tables import write_table

BINS = 5
SETS = [
    ("entropy", "selection", None, 6),
    ("my_set", "selection", None, 2),
    *((f"entropy/{kind}_{i:03}", kind, "entropy", 6) for kind in ("uniform", "norm_matched") for i in range(2)),
]


def completed(rows: Sequence[dict[str, object]], name: str) -> pl.DataFrame:
    """Rows with random numbers in the columns that they lack; each interval around its number."""
    generator = np.random.default_rng(0)
    schema, full = SCHEMAS[name], []
    for row in rows:
        found = dict(row)
        for column in schema:
            base = column.removesuffix("_low").removesuffix("_high")
            if column not in found and base == column:
                found[column] = float(generator.uniform(0.1, 0.9))
            elif column not in found:
                found[column] = None if found[base] is None else found[base] * (0.9 if column.endswith("low") else 1.1)
        full.append(found)
    return pl.DataFrame(full, schema={column: entry.dtype for column, entry in schema.items()})


def rows(sets: Sequence[tuple[str, str, str | None, int]], **more: object) -> list[dict[str, object]]:
    return [{"set": s, "kind": k, "control_of": c, "n_neurons": n, "n_tokens": 900, **more} for s, k, c, n in sets]


def tables(sets: Sequence[tuple[str, str, str | None, int]], *, refit: bool = True) -> dict[str, pl.DataFrame]:
    singles = [(f"1.{n}", "single", None, 1) for n in range(3)] if sets else []
    conditions = [("none", "single", None, 0)], list(sets)
    kinds = [("", 0), ("_refit", 1)][: 1 + refit]
    records = [
        row
        for ones, word in zip(conditions, ("clean", "ablated"), strict=True)
        for suffix, _ in kinds
        for row in rows(ones, condition=word + suffix, n_documents=9)
    ]
    for row in records:
        if row["set"] == "none":
            row |= {f"{name}_change": None for name in ("nll", "brier", "ece", "confidence", "accuracy")}
    bins = [row | {"bin": b, "n_tokens": 180} for row in records for b in range(BINS)]
    bins = [{key: value for key, value in row.items() if key in SCHEMAS["reliability"]} for row in bins]
    return {
        "temperature": completed(rows([*sets, *singles], replacement="mean", n_documents=9), "temperature"),
        "calibration": completed(records, "calibration"),
        "reliability": completed(bins, "reliability"),
    }


@pytest.mark.parametrize(("sets", "refit"), [(SETS, True), (SETS[:1], False), ([], True)])
def test_figures_are_drawn_and_their_bytes_repeat(sets: list, refit: bool, tmp_path: Path) -> None:
    made = tables(sets, refit=refit)
    for name, frame in made.items():
        write_table(frame, tmp_path / f"{name}.parquet", name)
    for module, names in ((temperature, ["temperature"]), (calibration, ["calibration", "reliability"])):
        label = module.__name__.rsplit(".", 1)[1]
        paths = {name: tmp_path / f"{name}.parquet" for name in names}
        images = [tmp_path / f"{label}{i}.svg" for i in range(2)]
        for image in images:
            module.draw(**paths, figures=[image], model="demo", text="evaluation", level=0.9)
        svg = images[0].read_text()
        assert svg == images[1].read_text()
        assert "model demo" in svg
        assert "NaN" not in svg
        if not sets:
            assert "selected in the last layer" in svg
            continue
        assert "90 % intervals" in svg
        assert ("norm-matched control set" in svg) == (len(sets) > 2)
        if label == "calibration":
            assert ("fitted temperature" in svg) == refit
            assert ("range of control sets" in svg) == (len(sets) > 2)


def test_rows_are_selections_then_single_neurons() -> None:
    found = set_rows.rows_of(tables(SETS)["temperature"])
    assert found.order == ["entropy neurons (6), jointly", "my set neurons (2), jointly", "1.0", "1.1", "1.2"]
    assert found.frame.filter(pl.col("source") == set_rows.OWN)["set"].to_list() == [
        "entropy",
        "my_set",
        "1.0",
        "1.1",
        "1.2",
    ]
    controls = found.frame.filter(pl.col("source") != set_rows.OWN)
    assert set(controls["label"]) == {"entropy neurons (6), jointly"}
    assert found.left_out == 0


def test_the_band_is_the_controls_range() -> None:
    made = tables(SETS)["reliability"]
    curves, band = calibration.prepare(made, "entropy")
    controls = made.filter((pl.col("control_of") == "entropy") & (pl.col("condition") == "ablated"))
    assert len(band) == BINS
    assert sorted(band["accuracy_low"]) == sorted(controls.group_by("bin").agg(pl.col("accuracy").min())["accuracy"])
    assert curves["curve"].unique().sort().to_list() == sorted([calibration.CLEAN, calibration.ABLATED])
    np.testing.assert_allclose(curves["gap"], curves["accuracy"] - curves["confidence"])


@pytest.mark.parametrize(("domain", "expected"), [((-0.021, 0.0206), 5), ((0.0, 1.0), 6), ((0.99, 1.06), 4)])
def test_few_ticks(domain: tuple[float, float], expected: int) -> None:
    ticks = set_rows.few_ticks(domain)
    assert len(ticks) == expected
    assert domain[0] <= min(ticks) <= max(ticks) <= domain[1]
    if domain[0] < 0:
        assert 0.0 in ticks


@pytest.mark.parametrize("name", ["temperature", "calibration"])
def test_captions_render(name: str) -> None:
    jinja2 = pytest.importorskip("jinja2")
    docutils = pytest.importorskip("docutils.core")
    source = (Path(__file__).parents[2] / "rules" / "captions" / f"{name}.rst").read_text()
    known = {"wildcards": {"model": "demo", "text": "evaluation"}, "params": {"level": 0.9}}
    text = jinja2.Template(source, undefined=jinja2.StrictUndefined).render(snakemake=known)
    settings = {"halt_level": 2, "report_level": 2}
    assert "90 % intervals" in docutils.publish_parts(text, writer="html", settings_overrides=settings)["body"].replace(
        "\n", " "
    )
