"""Figures of induction: where the copies start, which neurons are drawn, and what stands there without a repetition."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import altair as alt
import fake_tables
import numpy as np
import polars as pl
import pytest
from neuronlab.figures import groups, induction_profile, induction_scores
from neuronlab.figures.induction_profile import Places, drawn_neurons, on_top
from neuronlab.schemas import SCHEMAS
from neuronlab.tables import write_table

LAYER = 1


@pytest.fixture(scope="module")
def world() -> fake_tables.World:
    return fake_tables.World(n_neurons=160, d_model=64)


@pytest.fixture(scope="module")
def selection(world: fake_tables.World) -> pl.DataFrame:
    return fake_tables.fake_tables(world)["selection"]


def empty(name: str) -> pl.DataFrame:
    return pl.DataFrame(schema={column: spec.dtype for column, spec in SCHEMAS[name].items()})


def profile_table(neurons: list[int], offsets: range, *, copies: int = 2, intervals: bool = True) -> pl.DataFrame:
    """Plausible values; the last place of the last copy has no next token."""
    generator = np.random.default_rng(0)
    rows = []
    quantities = ["entropy", "loss", "norm_scale", "correct", *(["activation"] * len(neurons))]
    for i, quantity in enumerate(quantities):
        neuron = neurons[i - 4] if quantity == "activation" else None
        for copy in range(copies):
            for offset in offsets:
                if quantity in ("loss", "correct") and (copy, offset) == (copies - 1, offsets[-1]):
                    continue
                mean = float(generator.uniform(0.2, 0.4)) + 0.5 * copy * (quantity == "correct")
                rows.append(
                    {
                        "quantity": quantity,
                        "layer": None if neuron is None else LAYER,
                        "neuron": neuron,
                        "copy": copy,
                        "offset": offset,
                        "n_sequences": 40 - max(offset, 0) if offsets[0] < 0 else 40,
                        "mean": mean,
                        "mean_low": mean - 0.1 if intervals else None,
                        "mean_high": mean + 0.1 if intervals else None,
                    }
                )
    if offsets[0] < 0:
        shares = {"mean": 0.75, "mean_low": 0.7, "mean_high": 0.8}
        place = {"copy": copies - 1, "offset": -1, "n_sequences": 40, "layer": None, "neuron": None}
        rows.append({"quantity": "continues", **place, **shares})
    return pl.DataFrame(rows, schema=empty("induction_profile").schema, orient="row")


def score_table(n: int, seed: int) -> pl.DataFrame:
    score = np.random.default_rng(seed).normal(size=n) * 0.05
    score[17] = -3.0  # no selected neuron: an extreme
    whole = np.full(n, 1)
    frame = pl.DataFrame(
        {
            "layer": whole * LAYER,
            "neuron": range(n),
            "mean_text": np.zeros(n),
            "mean_first": np.zeros(n),
            "mean_second": score,
            "norm": np.ones(n),
            "direction": np.where(score < 0, -1, 1),
            "moves": np.abs(score) > 0.1,
            "n_sequences": whole * 40,
            "score": score,
            "score_low": score - 0.01,
            "score_high": score + 0.01,
        }
    )
    return frame.cast({name: spec.dtype for name, spec in SCHEMAS["induction_scores"].items()})


def parts(spec: dict) -> Iterator[dict]:
    """All charts within a chart."""
    yield spec
    for key in ("layer", "hconcat", "vconcat"):
        for part in spec.get(key, []):
            yield from parts(part)


def data(whole: dict, part: dict) -> list[dict]:
    return whole["datasets"][part["data"]["name"]]


def subtitle(chart: alt.TopLevelMixin) -> str:
    return " | ".join(chart.to_dict()["title"]["subtitle"])


def made(profile: pl.DataFrame, selection: pl.DataFrame, kind: str) -> alt.TopLevelMixin:
    return induction_profile.chart(profile, selection, model="demo", text="evaluation", kind=kind)


@pytest.mark.parametrize(
    ("kind", "offsets", "copies", "starts"),
    [
        ("synthetic", range(60), 2, [60]),
        ("synthetic", range(10), 4, [10, 20, 30]),
        ("natural", range(-6, 5), 2, [12]),  # eleven places, and one left free
    ],
)
def test_a_line_stands_exactly_where_a_copy_starts(
    kind: str, offsets: range, copies: int, starts: list[int], selection: pl.DataFrame, world: fake_tables.World
) -> None:
    spec = made(profile_table(world.entropy, offsets, copies=copies), selection, kind).to_dict()
    rules = [part for part in parts(spec) if part.get("mark", {}).get("type") == "rule"]
    assert len(rules) == 3 + len(world.entropy)  # in every panel
    for rule in rules:
        assert [row["at"] for row in data(spec, rule)] == starts
    lines = [part for part in parts(spec) if part.get("mark", {}).get("type") == "line"]
    assert len(lines) == 3 + len(world.entropy)
    for line in lines:
        first = {row["copy"]: row["at"] for row in data(spec, line) if row["offset"] == offsets[0]}
        assert first == dict(enumerate([0, *starts]))
        for row in data(spec, line):
            assert row["at"] == first[row["copy"]] + row["offset"] - offsets[0]


def test_places_have_names() -> None:
    natural = Places(first=-6, length=11, copies=2, kind="natural")
    names = ["A0", "A1", "A2", "A3", "A4", "A5", "B", "+1", "+2", "+3", "+4"]
    second = ["X" if name == "B" else name for name in names]
    assert natural.ticks() == dict(enumerate(names)) | dict(enumerate(second, start=12))
    # Of a long prefix the ends and the continuation are named, whatever else has room.
    long = Places(first=-20, length=30, copies=2, kind="natural").ticks()
    assert [long[at] for at in (0, 20, 31, 51, 60)] == ["A0", "B", "A0", "X", "+9"]
    assert len(long) < 40
    synthetic = Places(first=0, length=60, copies=2, kind="synthetic").ticks()
    assert synthetic[0] == synthetic[60] == "0"
    assert all(synthetic[at] == str(at % 60) for at in synthetic)


def test_every_set_is_drawn_if_not_all_neurons_are(selection: pl.DataFrame, world: fake_tables.World) -> None:
    found = groups.group_neurons(selection, LAYER).filter(pl.col("group") != groups.CONTROLS)
    shown = drawn_neurons(found, 6)
    assert shown["neuron"].to_list() == world.entropy[:3] + world.frequency[:3]
    profile = profile_table([*world.entropy, *world.frequency, *world.uniform], range(8))
    spec = made(profile, selection, "synthetic").to_dict()
    names = [part["title"]["text"] for part in parts(spec) if "title" in part and "hconcat" not in part][1:]
    everyone = [f"{LAYER}.{neuron}" for neuron in world.entropy + world.frequency]
    assert names == everyone  # eleven fit, and no control is among them
    many = pl.concat(
        [
            selection,
            selection.filter(pl.col("kind") == "uniform")
            .head(9)
            .with_columns(set=pl.lit("more"), kind=pl.lit("selection"), control_of=pl.lit(None, pl.String)),
        ]
    )
    assert "8 more highlighted neurons not drawn" in subtitle(made(profile, many, "synthetic"))


def test_the_subtitle_states_shares_and_numbers(selection: pl.DataFrame, world: fake_tables.World) -> None:
    profile = profile_table(world.entropy, range(-6, 5))
    stated = subtitle(made(profile, selection, "natural"))
    first, last = (
        profile.filter((pl.col("quantity") == "correct") & (pl.col("offset") == -1) & (pl.col("copy") == copy))["mean"]
        for copy in (0, 1)
    )
    assert f"on top after A5: {100 * first.item():.0f} % in the first" in stated
    assert f"{100 * last.item():.0f} % in the last; X is B in 75 %" in stated
    assert "36 to 40 sequences by place" in stated
    assert "95 % interval" in stated
    # Synthetic: the last token of a copy, whose next one cannot be copied, is not in the share.
    synthetic = profile_table([], range(4)).with_columns(
        mean=pl.when(pl.col("offset") == 3).then(9.0).otherwise(0.2 + 0.4 * pl.col("copy"))
    )
    assert "20 % in the first copy, 60 % in the last" in str(on_top(synthetic, Places.of(synthetic, "synthetic")))
    assert "not drawn: loss of the token after a copy, 9.0 nats" in subtitle(made(synthetic, selection, "synthetic"))


@pytest.mark.parametrize("kind", ["synthetic", "natural"])
def test_a_profile_without_a_row_says_so(kind: str, selection: pl.DataFrame) -> None:
    spec = made(empty("induction_profile"), selection, kind).to_dict()
    assert f"no {kind} repetition" in str(spec["datasets"])


def test_profiles_without_intervals_or_selection_are_drawn(tmp_path: Path, selection: pl.DataFrame) -> None:
    profile = profile_table([4], range(-2, 2), intervals=False)
    write_table(profile, tmp_path / "profile.parquet", "induction_profile")
    write_table(selection.clear(), tmp_path / "selection.parquet", "selection")
    induction_profile.draw(
        profile=tmp_path / "profile.parquet",
        selection=[tmp_path / "selection.parquet"],
        figures=[tmp_path / "figure.svg"],
        model="demo",
        text="evaluation",
        kind="natural",
        level=0.95,
    )
    svg = (tmp_path / "figure.svg").read_text()
    assert "no neuron selected" in svg
    assert "NaN" not in svg


def test_figures_repeat_their_bytes_and_name_neurons(
    tmp_path: Path, selection: pl.DataFrame, world: fake_tables.World
) -> None:
    tables = {
        "profile": ("induction_profile", profile_table(world.entropy, range(12))),
        "synthetic": ("induction_scores", score_table(world.n_neurons, 0)),
        "natural": ("induction_scores", score_table(world.n_neurons, 1)),
        "selection": ("selection", selection),
    }
    paths = {name: tmp_path / f"{name}.parquet" for name in tables}
    for name, (schema, frame) in tables.items():
        write_table(frame, paths[name], schema)
    common = {"selection": [paths["selection"]], "model": "demo", "text": "evaluation", "level": 0.9}
    for run in ("a", "b"):
        induction_profile.draw(
            profile=paths["profile"], kind="synthetic", figures=[tmp_path / f"profile_{run}.svg"], **common
        )
        induction_scores.draw(
            synthetic=paths["synthetic"],
            natural=paths["natural"],
            figures=[tmp_path / f"scores_{run}.svg"],
            **common,
        )
    for name in ("profile", "scores"):
        assert (tmp_path / f"{name}_a.svg").read_bytes() == (tmp_path / f"{name}_b.svg").read_bytes()
        svg = (tmp_path / f"{name}_a.svg").read_text()
        assert [neuron for neuron in world.entropy if f">{LAYER}.{neuron}<" not in svg] == []
        assert "90 % interval" in svg
    svg = (tmp_path / "scores_a.svg").read_text()
    assert f">{LAYER}.17<" in svg  # the extreme that belongs to no set


def test_scores_are_joined_by_neuron_and_extremes_are_named(selection: pl.DataFrame, world: fake_tables.World) -> None:
    synthetic, natural = score_table(world.n_neurons, 0), score_table(world.n_neurons, 1)
    frame = induction_scores.prepare(synthetic, natural.reverse(), selection)
    assert frame["neuron"].to_list() == list(range(world.n_neurons))
    assert frame["synthetic"].to_list() == synthetic["score"].to_list()
    assert frame["natural"].to_list() == natural["score"].to_list()
    assert frame["natural_high"].to_list() == natural["score_high"].to_list()
    largest = {
        neuron
        for table in (synthetic, natural)
        for neuron in table.sort(pl.col("score").abs(), descending=True)["neuron"].head(induction_scores.EXTREMES)
    }
    assert set(frame.filter("extreme")["neuron"]) == largest
    stated = subtitle(induction_scores.chart(synthetic, natural, selection, model="demo", text="evaluation"))
    moving = [set(table.filter(pl.col("moves"))["neuron"]) for table in (synthetic, natural)]
    both = len(moving[0] & moving[1])
    assert f"{len(moving[0])} synthetic, {len(moving[1])} natural, {both} both" in stated


def test_scores_of_one_kind_alone_are_not_compared(selection: pl.DataFrame, world: fake_tables.World) -> None:
    synthetic = score_table(world.n_neurons, 0)
    made = induction_scores.chart(
        synthetic, empty("induction_scores"), selection, model="demo", text="evaluation"
    ).to_dict()
    assert "no natural repetition was measured" in str(made["datasets"])
