"""What the figures of local attention, subjoiners, features and probes show is what the tables say."""

from __future__ import annotations

import json
from pathlib import Path

import altair as alt
import fake_stages
import polars as pl
import pytest
from chart_specs import field, marks, parts, rows, spec, subtitle, titles
from fake_stages import World
from neuronlab.figures import feature_neurons, local_attention, overlays, probes, saving, subjoiner_examples, subjoiners

Tables = dict[str, pl.DataFrame]


@pytest.fixture(scope="module")
def tables() -> Tables:
    return fake_stages.tables()


# Local attention


def test_attention_of_a_head_is_the_windows_own_measure_c_defect_6(tables: Tables) -> None:
    """Means of single offsets have a number of pairs each: they are not added up, the window has rows of its own."""
    frame = tables["local_attention"]
    whole = spec(local({"gpt2": tables}, text="pile"))
    part = next(part for part in marks(whole, "rect") if field(part, "fill") == "attention")
    drawn = {(row["layer"], row["head"]): row["attention"] for row in rows(whole, part)}
    for layer, head in ((0, 0), (7, 2)):
        own = frame.filter((pl.col("layer") == layer) & (pl.col("head") == head))
        added = sum(
            row["attention"] for row in own.iter_rows(named=True) if row["measure"] == "offset" and row["offset"]
        )
        assert drawn[layer, head] == own.filter(pl.col("measure") == "window")["attention"].item()
        assert drawn[layer, head] != pytest.approx(added, rel=1e-3)


def test_lines_of_offsets_and_of_the_bos_have_their_intervals(tables: Tables) -> None:
    whole = spec(local({"gpt2": tables}, text="pile"))
    bands = list(marks(whole, "area"))
    assert len(bands) == 2  # mean over heads, BOS
    layers = tables["local_attention_layers"]
    for part, measures in zip(bands, (("window", "offset"), ("bos",)), strict=True):
        drawn = {(row["measure"], row["offset"], row["layer"]): row for row in rows(whole, part)}
        own = layers.filter(pl.col("measure").is_in(measures))
        assert len(drawn) == len(own)
        for row in own.iter_rows(named=True):
            found = drawn[row["measure"], row["offset"], row["layer"]]
            assert [found[f"attention{end}"] for end in ("_low", "_high")] == [
                row["attention_low"],
                row["attention_high"],
            ]


def local(given: dict[str, Tables], **more: object) -> alt.TopLevelMixin:
    names = ("local_attention", "local_attention_layers", "attention_bos")
    return local_attention.chart(*({m: made[name] for m, made in given.items()} for name in names), **more)


def test_local_attention_of_one_model_has_heads_and_that_of_several_has_not(tables: Tables) -> None:
    whole = spec(local({"gpt2": tables}, text="pile"))
    assert "On the BOS: a dot per head, and their mean" in titles(whole)
    maps = [part for part in marks(whole, "rect") if field(part, "fill") == "attention"]
    assert [len(rows(whole, part)) for part in maps] == [48, 48]
    several = spec(local({"gpt2": tables, "six": fake_stages.tables(World(n_layers=6))}, text="pile"))
    assert not marks(several, "rect")
    assert titles(several)[1:] == ["Previous 5 tokens", "BOS"]


def test_models_of_a_family_share_a_panel_and_all_panels_an_axis() -> None:
    worlds = {"gpt2": World(), "phi": World(family="Phi", n_layers=9), "gpt2-xl": World(n_layers=16)}
    whole = spec(local({model: fake_stages.tables(world) for model, world in worlds.items()}, text="pile"))
    assert titles(whole)[1:] == [
        "Previous 5 tokens: GPT-2",
        "Previous 5 tokens: Phi",
        "BOS: GPT-2",
        "BOS: Phi",
    ]
    lines = [part for part in marks(whole, "line") if field(part, "y") == "attention"]
    assert [{row["model"] for row in rows(whole, part)} for part in lines] == [{"gpt2", "gpt2-xl"}, {"phi"}] * 2
    domains = [part["encoding"]["y"]["scale"]["domain"] for part in lines]
    assert domains[0] == domains[1]
    assert domains[2] == domains[3]
    for part in lines:
        assert part["encoding"]["color"]["scale"]["domain"] == ["gpt2", "gpt2-xl", "phi"]


def test_families_of_one_model_each_are_overlaid() -> None:
    worlds = {"gpt2": World(), "phi": World(family="Phi", n_layers=9)}
    whole = spec(local({model: fake_stages.tables(world) for model, world in worlds.items()}, text="pile"))
    assert titles(whole)[1:] == ["Previous 5 tokens", "BOS"]


def test_a_text_without_bos_says_so(tables: Tables) -> None:
    layers = tables["local_attention_layers"].filter(pl.col("measure") != "bos")
    without = {"attention_bos": tables["attention_bos"].head(0), "local_attention_layers": layers}
    chart = local({"gpt2": tables | without}, text="pile")
    assert "no BOS at position 0 in this text" in subtitle(chart)
    assert not [title for title in titles(spec(chart)) if "BOS" in title]


def test_the_range_of_queries_is_told(tables: Tables) -> None:
    """Offsets and windows have queries of their own number."""
    layers = tables["local_attention_layers"]
    more = pl.when(pl.col("measure") == "bos").then(7_723).otherwise(pl.col("n") + 40).alias("n")
    several = tables | {"local_attention_layers": layers.with_columns(more.cast(pl.Int64))}
    assert "7,540 to 7,723 queries" in subtitle(local({"gpt2": several}, text="pile"))
    assert "7,500 queries" in subtitle(local({"gpt2": tables}, text="pile"))


def test_tables_of_different_models_are_refused(tables: Tables) -> None:
    with pytest.raises(overlays.OverlayError, match="different models"):
        local_attention.chart(
            {"a": tables["local_attention"]}, {"b": tables["local_attention_layers"]}, {"b": tables["attention_bos"]}
        )


# Subjoiners


def test_significant_heads_are_outlined_and_a_missing_test_is_none(tables: Tables) -> None:
    frame = tables["subjoiners"]
    whole = spec(subjoiners.chart(frame, model="m", text="t", level=0.95))
    edges = [part for part in marks(whole, "rect") if part["mark"].get("stroke")]
    (edge,) = edges
    assert edge["transform"] == [{"filter": "datum.marked"}]
    marked = {(row["layer"], row["head"]) for row in rows(whole, edge) if row["marked"]}
    every = frame.filter(pl.col("pieces") == 0, pl.col("half") == "all")
    expected = {(r["layer"], r["head"]) for r in every.iter_rows(named=True) if r["p_value_holm"] <= 0.05}
    assert marked == expected
    assert 0 < len(expected) < len(every)
    unknown = frame.with_columns(p_value=pl.lit(None, pl.Float64), p_value_holm=pl.lit(None, pl.Float64))
    whole = spec(subjoiners.chart(unknown, model="m", text="t"))
    edge = next(part for part in marks(whole, "rect") if part["mark"].get("stroke"))
    assert not any(row["marked"] for row in rows(whole, edge))
    assert "no test" in json.dumps(whole)


def test_the_best_heads_come_first_with_words_and_one_token_words(tables: Tables) -> None:
    frame = tables["subjoiners"]
    best = subjoiners.best_heads(frame)
    assert best.row(0, named=True)["layer"] == 1
    assert best.row(0, named=True)["head"] == 3
    assert len(best) == subjoiners.BEST
    halves = {
        half: {(r["layer"], r["head"]): r for r in rows.iter_rows(named=True)}
        for half in ("selection", "report")
        if len(rows := frame.filter(pl.col("half") == half, pl.col("pieces") == 0))
    }
    chosen = sorted(halves["selection"], key=lambda at: -halves["selection"][at]["score"])[: subjoiners.BEST]
    assert best.select("layer", "head").rows() == chosen
    for row in best.iter_rows(named=True):  # what is shown of them is of the other half
        other = halves["report"][row["layer"], row["head"]]
        assert all(row[name] == other[name] for name in ("score", "score_low", "score_high", "p_value_holm"))
    said = subtitle(subjoiners.chart(frame, model="m", text="t"))
    assert "chosen by 96 words of one half of the documents, shown by 84 words of the other half" in said
    alone = frame.filter(pl.col("half") == "all")
    assert "chosen and shown by the same words" in subtitle(subjoiners.chart(alone, model="m", text="t"))
    drawn = subjoiners.by_pieces(frame, best)
    assert len(drawn) == subjoiners.BEST * 3 * 2  # heads, numbers of tokens, kinds of words
    shown = frame.filter(pl.col("half") == "report")
    own = shown.filter((pl.col("layer") == 1) & (pl.col("head") == 3) & (pl.col("pieces") == 4)).row(0, named=True)
    for kind, (name, _) in subjoiners.WORDS.items():
        row = drawn.filter((pl.col("place") == 0) & (pl.col("pieces") == 4) & (pl.col("kind") == name)).row(
            0, named=True
        )
        found = [row[f"attention{end}"] for end in ("", "_low", "_high")]
        assert found == [own[f"attention_{kind}{end}"] for end in ("", "_low", "_high")]
        assert abs(row["at"] - 4) < 0.2


def test_examples_are_in_the_order_of_their_drawing_with_the_score_framed(tables: Tables) -> None:
    frame = tables["subjoiner_examples"]
    whole = spec(subjoiner_examples.chart(frame.sample(fraction=1, shuffle=True, seed=2), model="m", text="t"))
    frames = [part for part in marks(whole, "rect") if part["mark"].get("strokeWidth") == 2]
    assert len(frames) == 4
    for example, part in enumerate(frames):
        own = frame.filter(pl.col("example") == example)
        last = own["query"].max()
        expected = own.filter((pl.col("query") == last) & pl.col("in_word") & (pl.col("key") < last))
        cells = rows(whole, part)
        assert sorted(row["key"] for row in cells) == sorted(expected["key"].to_list())
        assert {row["query"] for row in cells} == {last}
        share = expected["attention"].sum()
        assert subjoiner_examples.joined(own) == pytest.approx(share)
        assert f"the last attends {share:.2f} to the earlier ones" in json.dumps(whole)


def test_the_head_named_is_the_head_drawn_c_defect_7(tables: Tables) -> None:
    """The published figure says L2H5 and shows [1, 6]: here the name comes with the data."""
    frame = tables["subjoiner_examples"].with_columns(layer=pl.lit(1, pl.Int32), head=pl.lit(6, pl.Int32))
    assert "head 1.6, of the highest score" in subtitle(subjoiner_examples.chart(frame, model="m", text="t"))
    best = subjoiners.best_heads(tables["subjoiners"])
    whole = spec(subjoiners.chart(tables["subjoiners"], model="m", text="t"))
    named = [title for title in titles(whole) if title in {f"{r['layer']}.{r['head']}" for r in best.to_dicts()}]
    assert named == [f"{row['layer']}.{row['head']}" for row in best.iter_rows(named=True)]


def test_token_labels_are_data_and_no_code(tables: Tables, tmp_path: Path) -> None:
    strings = pl.col("query_string").replace({" of": "'\"}) \\"}), pl.col("key_string").replace({" of": "'\"}) \\"})
    odd = tables["subjoiner_examples"].with_columns(*strings)
    chart = subjoiner_examples.chart(odd, model="m", text="t")
    saving.save(chart, [tmp_path / "odd.svg"])
    assert "'\"}" in (tmp_path / "odd.svg").read_text().replace("&quot;", '"').replace("&apos;", "'").replace(
        "&#39;", "'"
    )


# Features


def test_the_best_neuron_of_each_feature_is_drawn_and_marked_by_its_corrected_p_value(tables: Tables) -> None:
    frame = tables["feature_neurons"]
    high = frame.with_columns(
        p_value_holm=pl.when(pl.col("feature") == "digits").then(0.2).otherwise("p_value_holm"),
        effect_size=pl.when(pl.col("feature") == "ends_ing").then(-9.0).otherwise("effect_size"),
    )
    best = feature_neurons.best_neurons(high, 0.95)
    assert best["feature"].to_list()[0] == "ends_ing"  # the largest size, whatever its sign
    assert dict(best.select("feature", "significant").iter_rows()) == {
        "ends_ing": True,
        "leading_space": True,
        "digits": False,
    }
    for row in best.iter_rows(named=True):
        own = frame.filter(pl.col("feature") == row["feature"])
        strongest = own.sort(pl.col("difference").abs(), descending=True).row(0, named=True)
        assert (row["layer"], row["neuron"]) == (strongest["layer"], strongest["neuron"])
    missing = frame.with_columns(
        effect_size=pl.lit(None, pl.Float64), p_value=pl.lit(None, pl.Float64), p_value_holm=pl.lit(None, pl.Float64)
    )
    assert not feature_neurons.best_neurons(missing, 0.95)["significant"].any()
    chart = feature_neurons.chart(missing, tables["feature_histograms"], model="m")
    assert "no effect size where neither group varies (3)" in subtitle(chart)


def test_a_neuron_shared_by_features_has_one_histogram() -> None:
    shared = {"layer": [1, 1, 2], "neuron": [5, 5, 7], "feature": ["ends_s", "ends_es", "digits"]}
    best = pl.DataFrame(shared | {"significant": [False, True, True]})
    histograms = pl.DataFrame(shared)
    assert feature_neurons.shown_histograms(best, histograms)["feature"].to_list() == ["ends_es", "digits"]
    assert feature_neurons.shown_histograms(best, histograms.head(2), 1)["feature"].to_list() == ["ends_es"]


def test_histograms_are_densities_of_each_group(tables: Tables) -> None:
    frame = tables["feature_histograms"]
    row = feature_neurons.best_neurons(tables["feature_neurons"], 0.95).row(0, named=True)
    bins = feature_neurons.densities(frame, row["feature"], row["layer"], row["neuron"])
    chosen = (pl.col("feature") == row["feature"]) & (pl.col("layer") == row["layer"])
    own = frame.filter(chosen & (pl.col("neuron") == row["neuron"]))
    for group in ("feature", "rest"):
        drawn, given = (f.filter(pl.col("group") == group) for f in (bins, own))
        area = (drawn["density"] * (drawn["bin_end"] - drawn["bin_start"])).sum()
        assert area == pytest.approx(1.0)
        assert drawn["n"].sum() == given["n"].sum() == drawn["tokens"][0]
        for cell in drawn.iter_rows(named=True):  # whole bins of the table, put together
            within = given.filter(
                (pl.col("bin_start") >= cell["bin_start"] - 1e-9) & (pl.col("bin_end") <= cell["bin_end"] + 1e-9)
            )
            assert within["n"].sum() == cell["n"]


# Probes


def test_curves_of_probes(tables: Tables) -> None:
    frame = tables["probes"]
    drawn = probes.curves(frame, "accuracy").filter(pl.col("feature") == "ends_ing")
    own = frame.filter(pl.col("feature") == "ends_ing")

    def line(name: str, size: int) -> dict:
        return drawn.filter((pl.col("line") == name) & (pl.col("size") == size)).row(0, named=True)

    scored = own.filter((pl.col("order") == "score") & (pl.col("size") == 8)).row(0, named=True)
    found = line(probes.SCORE, 8)
    assert [found[c] for c in ("value", "low", "high")] == [scored[f"accuracy{e}"] for e in ("", "_low", "_high")]
    draws = [r["accuracy"] for r in own.iter_rows(named=True) if (r["order"], r["size"]) == ("random", 8)]
    found = line(probes.RANDOM, 8)
    assert (found["low"], found["high"], found["probes"]) == (min(draws), max(draws), 5)
    assert found["value"] == pytest.approx(sum(draws) / 5)
    alone = {r["draw"]: r["accuracy"] for r in own.iter_rows(named=True) if r["order"] == "single"}
    found = line(probes.SINGLE, 4)  # the four neurons of that ensemble
    assert found["value"] == pytest.approx(sum(alone[place] for place in range(4)) / 4)
    assert (found["low"], found["high"], found["probes"]) == (alone[3], alone[0], 4)
    assert line(probes.MODEL, 0)["value"] == own.filter(pl.col("order") == "model")["accuracy"].item()


def test_probes_have_a_panel_per_feature_and_measure(tables: Tables) -> None:
    whole = spec(probes.chart(tables["probes"], model="m", text="t"))
    panels = [part for part in parts(whole) if "layer" in part]
    assert len(panels) == 2 * 2
    assert titles(whole)[1:] == ["ends_ing", "leading_space"]
    rules = [part for part in marks(whole, "rule") if part["mark"].get("strokeDash") == [7, 4]]
    found = [row["value"] for part in rules for row in rows(whole, part)]
    assert found == pytest.approx([0.82, 0.82, 0.87, 0.87])
    missing = tables["probes"].with_columns(**{f"auc{end}": pl.lit(None, pl.Float64) for end in ("", "_low", "_high")})
    whole = spec(probes.chart(missing, model="m", text="t"))
    assert len([part for part in parts(whole) if "layer" in part]) == 2


@pytest.mark.parametrize("features", [1, 4, 5])
def test_rows_of_probes_are_whole(features: int, tables: Tables) -> None:
    own = tables["probes"].filter(pl.col("feature") == "ends_ing")
    frame = pl.concat([own.with_columns(feature=pl.lit(f"feature_{i}")) for i in range(features)])
    whole = spec(probes.chart(frame, model="m", text="t"))
    (grid,) = [part for part in parts(whole) if "concat" in part]
    assert len(grid["concat"]) % grid["columns"] == 0
    assert titles(whole)[1:] == [f"feature_{i}" for i in range(features)]
