"""Selection rules against their definitions in plain Python; controls: seeded, disjoint, matched."""

import itertools

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from neuronlab import selection as sel
from neuronlab import selection_rules as rules
from neuronlab.null_space_size import NullSpaceError
from neuronlab.tables import check_frame, read_table, write_table

D, N_LAYERS, N = 50, 3, 40


@pytest.fixture(scope="module")
def neurons() -> pl.DataFrame:
    rng = np.random.default_rng(0)
    n = N_LAYERS * N
    kurt = rng.lognormal(2, 0.7, n) + 1
    frame = pl.DataFrame(
        {
            "layer": np.repeat(np.arange(N_LAYERS), N),
            "neuron": np.tile(np.arange(N), N_LAYERS),
            "norm": rng.lognormal(0, 0.5, n),
            "norm_in": rng.lognormal(0, 0.3, n),
            "logit_var": rng.lognormal(-7, 1, n),
            "vocab_mean": rng.normal(0, 0.1, n),
            "vocab_var": rng.lognormal(-6, 0.7, n),
            "vocab_skew": rng.normal(0, 1, n),
            "vocab_kurt": kurt,
            "unembed_gain": rng.uniform(0, 2, n),
        }
    )
    return check_frame(frame, "neurons")


@pytest.fixture(scope="module")
def null_space(neurons) -> pl.DataFrame:
    rng = np.random.default_rng(1)
    parts = [
        neurons.select("layer", "neuron").with_columns(
            k=pl.lit(k), k_rule=pl.lit(rule), rho=pl.Series(rng.uniform(0, 1, len(neurons)))
        )
        for k, rule in ((5, "configured"), (2, "configured"), (5, "automatic"))
    ]
    frame = pl.concat(parts).with_columns(rho_excess=pl.lit(0.0), rho_p_value=pl.lit(0.5))
    return check_frame(frame, "null_space")


@pytest.fixture
def make(neurons, null_space):
    def make(selections, control_sets=2, seed=7, **other):
        options = {"null_space_k": [5, 0.04], "d": D, "control_sets": control_sets, "seed": seed} | other
        return check_frame(sel.make_selection(neurons, null_space, selections, **options), "selection")

    return make


def names(frame: pl.DataFrame, of: str) -> list[tuple[int, int]]:
    return list(frame.filter(set=of).sort("rank").select("layer", "neuron").iter_rows())


def rows_of(neurons, null_space, k, k_rule, layer_min=N_LAYERS - 1):
    """Plain dictionaries, for definitions written out by hand."""
    rho = {(r["layer"], r["neuron"]): r["rho"] for r in null_space.filter(k=k, k_rule=k_rule).iter_rows(named=True)}
    rows = [r | {"rho": rho[r["layer"], r["neuron"]]} for r in neurons.iter_rows(named=True)]
    return [r for r in rows if r["layer"] >= layer_min]


def places(rows):
    return [(r["layer"], r["neuron"]) for r in rows]


def test_top_rho(make, neurons, null_space):
    for k, measured in ((5, (5, "configured")), (0.04, (2, "configured")), ("automatic", (5, "automatic"))):
        frame = make({"a": {"rule": "top_rho", "count": 10, "k": k}}, control_sets=1)
        rows = sorted(rows_of(neurons, null_space, *measured), key=lambda r: -r["rho"])
        assert names(frame, "a") == places(rows[:10])
    default = make({"a": {"rule": "top_rho", "count": 10}}, control_sets=1)
    assert names(default, "a") == names(make({"a": {"rule": "top_rho", "count": 10, "k": 5}}, control_sets=1), "a")


def test_top_rho_percent(make, neurons, null_space):
    rows = sorted(rows_of(neurons, null_space, 5, "configured"), key=lambda r: -r["rho"])
    assert names(make({"a": {"rule": "top_rho_percent", "percent": 10}}), "a") == places(rows[:4])
    assert names(make({"a": {"rule": "top_rho_percent"}}), "a") == places(rows[:1])  # 1 % of 40: at least one


def test_rho_then_logit_var(make, neurons, null_space):
    frame = make({"a": {"rule": "rho_then_logit_var", "rho_min": 0.5, "count": 6}})
    passed = [r for r in rows_of(neurons, null_space, 5, "configured") if r["rho"] >= 0.5]
    assert names(frame, "a") == places(sorted(passed, key=lambda r: r["logit_var"])[:6])


def test_norm_and_logit_var(make, neurons, null_space):
    frame = make({"a": {"rule": "norm_and_logit_var", "norm_quantile": 0.5, "logit_var_quantile": 0.4}})
    rows = rows_of(neurons, null_space, 5, "configured")
    high = np.quantile([r["norm"] for r in rows], 0.5)
    low = np.quantile([r["logit_var"] for r in rows], 0.4)
    passed = [r for r in rows if r["norm"] >= high and r["logit_var"] <= low]
    assert names(frame, "a") == places(sorted(passed, key=lambda r: r["logit_var"]))
    assert len(passed) > 2


def test_universal_query(make, neurons, null_space):
    limits = {"l2_penalty_min": 1.5, "vocab_kurt_max": 10, "vocab_var_max": 0.004}
    frame = make({"a": {"rule": "universal_query", **limits}}, control_sets=0)
    passed = [
        r
        for r in rows_of(neurons, null_space, 5, "configured", layer_min=1)
        if r["norm"] ** 2 + r["norm_in"] ** 2 >= 1.5 and r["vocab_kurt"] <= 10 and r["vocab_var"] <= 0.004
    ]
    assert names(frame, "a") == places(sorted(passed, key=lambda r: r["vocab_var"]))
    assert {layer for layer, _ in names(frame, "a")} == {1, 2}


def test_universal_query_with_activation_kurtosis(make, neurons):
    statistics = neurons.select("layer", "neuron").with_columns(kurtosis=pl.Series(np.arange(len(neurons)) * 1.0))
    selection = {"a": {"rule": "universal_query", "activation_kurt_max": 79.5, "layer_min": 0}}
    frame = make(selection, control_sets=0, statistics=statistics)
    assert {layer for layer, _ in names(frame, "a")} == {0, 1}
    with pytest.raises(rules.SelectionError, match=r"selections\.a\.activation_kurt_max: needs activation statistics"):
        make(selection)


def test_prediction_suppression_partition(make, neurons, null_space):
    frame = make(
        {
            "up": {"rule": "prediction", "layer_min": 0},
            "down": {"rule": "suppression"},
            "halves": {"rule": "partition", "count": 3},
        },
        control_sets=0,
    )
    rows = rows_of(neurons, null_space, 5, "configured", layer_min=0)
    up = [r for r in rows if r["vocab_kurt"] > 10 and r["vocab_skew"] > 0]
    down = [r for r in rows if r["vocab_kurt"] > 10 and r["vocab_skew"] < 0 and r["layer"] == 2]
    halves = [r for r in rows if r["vocab_var"] > 0.005 and r["layer"] == 2]
    assert names(frame, "up") == places(sorted(up, key=lambda r: -r["vocab_kurt"]))
    assert names(frame, "down") == places(sorted(down, key=lambda r: -r["vocab_kurt"]))
    assert names(frame, "halves") == places(sorted(halves, key=lambda r: -r["vocab_var"])[:3])


def test_explicit_keeps_the_order_of_the_list(make):
    frame = make({"a": {"rule": "explicit", "neurons": ["2.39", "0.3", "2.0"]}})
    assert names(frame, "a") == [(2, 39), (0, 3), (2, 0)]
    for control in ("a/uniform_000", "a/norm_matched_001"):
        assert [layer for layer, _ in names(frame, control)] == [2, 0, 2]


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        ({"rule": "top_roh", "count": 3}, r"selections\.a\.rule: there is no rule 'top_roh'; did you mean 'top_rho'"),
        ({"rule": "top_rho"}, r"selections\.a\.count is missing"),
        ({"rule": "top_rho", "count": 3, "rho_min": 0.5}, r"selections\.a\.rho_min has no meaning"),
        ({"rule": "explicit", "neurons": ["0.1"], "layer_min": 0}, r"selections\.a\.layer_min has no meaning"),
        ({"rule": "partition", "k": 5}, r"selections\.a\.k has no meaning"),
        ({"rule": "top_rho", "count": 0}, r"selections\.a\.count is 0"),
        ({"rule": "top_rho", "count": 41}, r"selections\.a\.count: 41 neurons are asked for, 40 are there"),
        ({"rule": "rho_then_logit_var", "rho_min": 0.99, "count": 9}, r"selections\.a\.count: 9 .* have rho >= 0.99"),
        ({"rule": "rho_then_logit_var", "rho_min": 1.5, "count": 9}, r"selections\.a\.rho_min is 1.5; it lies between"),
        ({"rule": "top_rho", "count": 3, "k": 7}, r"selections\.a\.k = 7 was not measured; add it to weights.null"),
        ({"rule": "top_rho", "count": 3, "k": "auto"}, r"selections\.a\.k is 'auto'; it is a number or 'automatic'"),
        (
            {"rule": "explicit", "neurons": ["3.0"]},
            r"selections\.a\.neurons: there is no neuron 3\.0; .* 0 to 2",
        ),
        ({"rule": "explicit", "neurons": ["2.40"]}, r"selections\.a\.neurons: there is no neuron 2\.40.* 0 to 39"),
        ({"rule": "explicit", "neurons": ["2.1", "2.1"]}, r"selections\.a\.neurons: a neuron is listed twice"),
        ({"rule": "partition", "vocab_var_min": 9.0}, r"selections\.a: no neuron passes the rule 'partition'"),
        ({"rule": "partition", "layer_min": 3}, r"selections\.a\.layer_min is 3; the model has layers 0 to 2"),
        ({"rule": "partition", "layer_min": -4}, r"selections\.a\.layer_min is -4"),
    ],
)
def test_bad_selections_name_their_key(make, selection, message):
    with pytest.raises(rules.SelectionError, match=message):
        make({"a": selection})


def test_k_larger_than_d(make):
    with pytest.raises(NullSpaceError, match=r"selections\.a\.k: k = 51 is larger than the model's width d = 50"):
        make({"a": {"rule": "top_rho", "count": 3, "k": 51}})


def test_registry_refuses_duplicates():
    with pytest.raises(rules.SelectionError, match="already"):
        rules.selection_rule("top_rho")(lambda frame, parameters: frame)


def test_silent_neurons_are_never_chosen_nor_controls(neurons, null_space):
    silent = (pl.col("layer") == 2) & (pl.col("neuron") < 30)
    measures = ["logit_var", "vocab_mean", "vocab_var", "vocab_skew", "vocab_kurt", "unembed_gain"]
    quiet = neurons.with_columns(
        pl.when(silent).then(0.0).otherwise(pl.col("norm")).alias("norm"),
        *(pl.when(silent).then(None).otherwise(pl.col(m)).alias(m) for m in measures),
    )
    shares = null_space.with_columns(rho=pl.when(silent).then(None).otherwise(pl.col("rho")))
    selections = {"a": {"rule": "rho_then_logit_var", "rho_min": 0.0, "count": 3}}
    frame = sel.make_selection(quiet, shares, selections, null_space_k=[5], d=D, control_sets=2, seed=0)
    assert (frame["neuron"] >= 30).all()
    with pytest.raises(rules.SelectionError, match=r"lower controls\.sets to 2"):
        sel.make_selection(quiet, shares, selections, null_space_k=[5], d=D, control_sets=3, seed=0)


TWO = {
    "entropy": {"rule": "rho_then_logit_var", "rho_min": 0.4, "count": 5},
    "extreme": {"rule": "norm_and_logit_var", "norm_quantile": 0.9, "logit_var_quantile": 1.0},
}


def test_controls_are_disjoint_from_all_selections_and_from_one_another(make):
    frame = make(TWO, control_sets=4)
    selected = set(names(frame, "entropy")) | set(names(frame, "extreme"))
    for of, kind in itertools.product(TWO, sel.KINDS):
        sets = [names(frame, f"{of}/{kind}_{i:03d}") for i in range(4)]
        assert all(len(s) == len(names(frame, of)) for s in sets)
        together = [place for s in sets for place in s]
        assert len(set(together)) == len(together)
        assert not set(together) & selected
        assert sel.control_pool(frame, of, kind).rows() == sorted(together)
    assert frame["set"].n_unique() == 2 + 2 * 2 * 4
    assert set(frame.filter(kind="selection")["control_of"]) == {None}


def test_controls_hang_on_the_seed_alone(make):
    first, again, other = make(TWO), make(TWO), make(TWO, seed=8)
    assert first.equals(again)
    uniform = pl.col("kind") == "uniform"
    assert not first.filter(uniform).equals(other.filter(uniform))
    assert names(first, "entropy") == names(other, "entropy")
    # More control sets of the one kind leave the other's alone.
    assert names(make(TWO, control_sets=3), "entropy/uniform_000") == names(
        make(TWO, control_sets=3), "entropy/uniform_000"
    )


def test_norm_matched_controls_are_as_near_as_can_be(make, neurons):
    frame = make(TWO, control_sets=3)
    norm = {(r["layer"], r["neuron"]): r["norm"] for r in neurons.iter_rows(named=True)}
    matched = frame.filter(kind="norm_matched", control_of="extreme")
    for row in matched.iter_rows(named=True):
        chosen, control = norm[row["layer"], row["matched"]], norm[row["layer"], row["neuron"]]
        assert row["norm_ratio"] == pytest.approx(control / chosen, rel=1e-12)
    # The largest norms of the layer are selected, so their controls are all smaller: the table shows it.
    assert (matched["norm_ratio"] < 1).all()
    # No exchange with a neuron left over, and no swap of two partners, comes nearer.
    taken = set(names(frame, "entropy")) | set(names(frame, "extreme")) | set(matched.select("layer", "neuron").rows())
    free = [value for place, value in norm.items() if place not in taken and place[0] == 2]
    pairs = [(norm[2, r["matched"]], norm[2, r["neuron"]]) for r in matched.iter_rows(named=True)]
    for chosen, control in pairs:
        assert min(abs(np.log(f / chosen)) for f in free) >= abs(np.log(control / chosen)) - 1e-12
    for (a, x), (b, y) in itertools.combinations(pairs, 2):
        assert abs(np.log(x / a)) + abs(np.log(y / b)) <= abs(np.log(y / a)) + abs(np.log(x / b)) + 1e-12


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(1, 4))
def test_uniform_controls_cover_the_layer(seed, n_sets, size):
    chosen = pl.DataFrame({"layer": [0] * size, "neuron": range(size), "norm": [1.0] * size})
    pool = pl.DataFrame({"layer": [0] * 16, "neuron": range(100, 116), "norm": [1.0] * 16})
    frame = sel.draw_controls("a", "uniform", chosen, pool, n_sets, seed)
    assert len(frame) == n_sets * size
    assert frame["neuron"].is_unique().all()
    assert frame["neuron"].is_between(100, 115).all()


def test_every_available_neuron_is_drawn_equally_often():
    chosen = pl.DataFrame({"layer": [0] * 2, "neuron": [0, 1], "norm": [1.0] * 2})
    pool = pl.DataFrame({"layer": [0] * 8, "neuron": range(8), "norm": [1.0] * 8})
    drawn = [sel.draw_controls("a", "uniform", chosen, pool, 1, seed)["neuron"].to_list() for seed in range(1000)]
    counts = np.bincount(np.concatenate(drawn), minlength=8)
    assert (np.abs(counts - 250) < 5 * np.sqrt(250 * 0.75)).all()


def test_more_controls_than_neurons(make):
    with pytest.raises(rules.SelectionError, match=r"controls\.sets: 8 .* selections\.a .* lower controls\.sets to 7"):
        make({"a": {"rule": "top_rho", "count": 5}}, control_sets=8)


def test_no_selection_is_an_empty_table(make):
    assert make({}).is_empty()


def test_rule_reads_and_writes(neurons, null_space, tmp_path):
    write_table(neurons, tmp_path / "neurons.parquet", "neurons")
    write_table(null_space, tmp_path / "null_space.parquet", "null_space")
    values = pl.DataFrame(
        {
            "index": range(D),
            "singular_value": [float(D - i) for i in range(D)],
            "ratio": [1.0] * D,
            "automatic": [False] * D,
            "exact_null": [False] * D,
            "automatic_p_value": [1.0] * D,
        }
    )
    write_table(values, tmp_path / "singular_values.parquet", "singular_values")
    sel.select_neurons(
        neurons=tmp_path / "neurons.parquet",
        null_space=tmp_path / "null_space.parquet",
        singular_values=tmp_path / "singular_values.parquet",
        selections=TWO,
        control_sets=2,
        null_space_k=[5, 2],
        seed=7,
        selection=tmp_path / "selection.parquet",
        provenance={"seed": 7},
    )
    frame = read_table(tmp_path / "selection.parquet", "selection")
    assert frame.equals(
        check_frame(
            sel.make_selection(neurons, null_space, TWO, null_space_k=[5, 2], d=D, control_sets=2, seed=7), "selection"
        )
    )
