"""Sets and variants of the context-copying study: disjoint controls, seeds, matches, numbering, values."""

import itertools
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from neuronlab.copying_controls import CopyingSetError, Layer, draw_norm_matched, draw_uniform
from neuronlab.copying_sets import driven_by_best_head, first_draw, make_sets, select_copying_sets
from neuronlab.copying_variants import VariantError, make_variants, read_groups
from neuronlab.replacements import ActivationStatistics
from neuronlab.schemas import SCHEMAS
from neuronlab.tables import check_frame, read_table, write_table

N, LAST = 60, 2
REPLACEMENTS = ["mean", "median", "mode", "mean-3sd", "mean+3sd", "zero"]


def norms(n: int = N, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).lognormal(0, 0.5, n)


def layer_of(norm: np.ndarray, taken: list[int]) -> Layer:
    available = norm > 0
    available[taken] = False
    return Layer(norm, available)


def neurons_frame(norm: np.ndarray) -> pl.DataFrame:
    """Three layers of equal size; only the last one's norms are `norm`."""
    n = len(norm)
    frame = {"layer": np.repeat(np.arange(LAST + 1), n), "neuron": np.tile(np.arange(n), LAST + 1)}
    frame |= {name: np.ones((LAST + 1) * n) for name in SCHEMAS["neurons"] if name not in frame}
    frame["norm"] = np.concatenate([np.full(LAST * n, 9.0), norm])
    return check_frame(pl.DataFrame(frame), "neurons")


def selection_frame(**sets: list[tuple[int, int]]) -> pl.DataFrame:
    """Selections as (layer, neuron) lists, in order of rank."""
    rows = [
        {"set": name, "kind": "selection", "rule": "neurons", "control_of": None, "layer": at, "neuron": neuron}
        | {"rank": rank, "matched": None, "norm_ratio": None}
        for name, places in sets.items()
        for rank, (at, neuron) in enumerate(places)
    ]
    schema = {column: spec.dtype for column, spec in SCHEMAS["selection"].items()}
    return check_frame(pl.DataFrame(rows, schema=schema), "selection")


def head_tables() -> tuple[pl.DataFrame, pl.DataFrame]:
    """Two heads against neurons 0 to 7 of the last layer; head 1.3 has the best score on random tokens."""
    common = {"previous_token": 0.0, "bos_first": 0.0, "bos_second": 0.0, "n_sequences": 4}
    scores = [("random", 0, 1, 0.2, 1), ("random", 1, 3, 0.9, 0), ("natural", 0, 1, 0.99, 0), ("natural", 1, 3, 0.1, 1)]
    heads = [
        {"source": source, "layer": layer, "head": head, "score": score, "rank": rank, "is_induction": score > 0.5}
        | {"score_low": score, "score_high": score}
        | common
        for source, layer, head, score, rank in scores
    ]
    rng = np.random.default_rng(3)
    moved = [
        {"layer": layer, "head": head, "method": method, "neuron_layer": LAST, "neuron": neuron, "n_sequences": 4}
        | {"norm": 1.0 + neuron, "change": float(rng.normal()), "change_low": None, "change_high": None}
        for (layer, head), method, neuron in itertools.product([(0, 1), (1, 3)], ["mean", "bos"], range(8))
    ]
    return check_frame(pl.DataFrame(moved), "head_neurons"), check_frame(pl.DataFrame(heads), "induction_heads")


class Run:
    """The rule on tables in a folder."""

    def __init__(self, folder: Path, norm: np.ndarray) -> None:
        self.folder = folder
        write_table(neurons_frame(norm), folder / "neurons.parquet", "neurons")
        for frame, name in zip(head_tables(), ("head_neurons", "induction_heads"), strict=True):
            write_table(frame, folder / f"{name}.parquet", name)

    def __call__(
        self, *selections: pl.DataFrame, heads: bool = False, **options: object
    ) -> tuple[pl.DataFrame, pl.DataFrame]:
        paths = []
        for i, frame in enumerate(selections):
            paths.append(self.folder / f"selection_{i}.parquet")
            write_table(frame, paths[-1], "selection")
        sets, variants = self.folder / "sets.parquet", self.folder / "variants.parquet"
        few = {"uniform": 3, "norm_matched": 3, "synthetic": 2, "neighbours": 6, "doses": 3, "dose_controls": 1}
        select_copying_sets(
            selection=paths,
            neurons=self.folder / "neurons.parquet",
            head_neurons=[self.folder / "head_neurons.parquet"] if heads else [],
            heads=[self.folder / "induction_heads.parquet"] if heads else [],
            sets=sets,
            variants=variants,
            **{"replacements": ["mean", "zero"], "seed": 5} | few | options,
        )
        return read_table(sets, "copying_sets"), read_table(variants, "variants")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path, norms())


def members(sets: pl.DataFrame) -> dict[str, list[int]]:
    return {name: part.sort("rank")["neuron"].to_list() for (name,), part in sets.group_by("set", maintain_order=True)}


ENTROPY = [(LAST, neuron) for neuron in (5, 3, 41)]
OTHER = [(LAST, neuron) for neuron in (7, 3, 50, 51)]


def test_controls_hold_no_selected_neuron(run: Run) -> None:
    """B defect 10: published control sets could hold entropy neurons."""
    here, elsewhere = selection_frame(entropy=ENTROPY, other=OTHER), selection_frame(frequency=[(LAST, 11), (0, 12)])
    sets, _ = run(here, elsewhere, names=["entropy"], uniform=50, norm_matched=50)
    assert sets["set"].n_unique() == 1 + 50 + 50 + 2
    drawn = sets.filter(pl.col("kind").is_in(["uniform", "norm_matched"]))
    # Also those of selections that are not replaced themselves; 12 is selected in another layer and may serve.
    assert not set(drawn["neuron"]) & {5, 3, 41, 7, 50, 51, 11}
    assert 12 in drawn["neuron"]
    for neurons in members(drawn).values():
        assert len(neurons) == 3 == len(set(neurons))
    for kind in ("uniform", "norm_matched"):
        found = [frozenset(part) for part in members(sets.filter(kind=kind)).values()]
        assert len(set(found)) == len(found) == 50


def test_names_order_and_columns(run: Run) -> None:
    sets, _ = run(selection_frame(entropy=ENTROPY, other=OTHER))
    names = list(members(sets))
    of = [
        f"{{}}/{kind}_{i:03d}" for kind, n in (("uniform", 3), ("norm_matched", 3), ("synthetic", 2)) for i in range(n)
    ]
    assert names == ["entropy", "other"] + [name.format(s) for s in ("entropy", "other") for name in of]
    assert members(sets)["entropy"] == [5, 3, 41]
    assert members(sets)["other"] == [7, 3, 50, 51]
    norm = norms()
    for row in sets.iter_rows(named=True):
        assert row["layer"] == LAST
        assert row["norm"] == norm[row["neuron"]]
        assert row["control_of"] == (None if row["kind"] == "selection" else row["set"].split("/")[0])
        if row["kind"] == "norm_matched":
            assert row["norm_ratio"] == pytest.approx(norm[row["neuron"]] / norm[row["matched"]])
            assert row["matched"] == members(sets)[row["control_of"]][row["rank"]]
        else:
            assert (row["matched"], row["norm_ratio"]) == (None, None)
    synthetic = sets.filter(kind="synthetic")
    assert members(synthetic) == {
        f"{s}/synthetic_{i:03d}": members(sets)[s] for s in ("entropy", "other") for i in range(2)
    }
    assert synthetic.filter(set="other/synthetic_001")["draw"].to_list() == [first_draw("other") + 1] * 4
    assert synthetic["draw"].n_unique() == 4, "selections of one size would share their random directions"
    assert sets.filter(pl.col("kind") != "synthetic")["draw"].null_count() == len(sets) - len(synthetic)


def test_draws_depend_on_seed_name_and_kind_alone(run: Run) -> None:
    alone, _ = run(selection_frame(entropy=ENTROPY), uniform=40, norm_matched=40)
    again, _ = run(selection_frame(entropy=ENTROPY), uniform=40, norm_matched=40)
    assert alone.equals(again)
    fewer, _ = run(selection_frame(entropy=ENTROPY), uniform=7, norm_matched=9, synthetic=0)
    assert members(alone).items() >= members(fewer).items()
    reseeded, _ = run(selection_frame(entropy=ENTROPY), uniform=40, norm_matched=40, seed=6)
    renamed, _ = run(selection_frame(entropic=ENTROPY), uniform=40, norm_matched=40)
    for other, name in ((reseeded, "entropy"), (renamed, "entropic")):
        for kind in ("uniform", "norm_matched"):
            found = list(members(other.filter(kind=kind, control_of=name)).values())
            assert sum(a == b for a, b in zip(found, members(alone.filter(kind=kind)).values(), strict=True)) < 4
    # Another selection takes neurons away: uniform sets without any of them stay as they were.
    both, _ = run(selection_frame(other=OTHER, entropy=ENTROPY), uniform=40, norm_matched=40)
    taken = {neuron for _, neuron in OTHER}
    kept = {
        name: neurons for name, neurons in members(alone.filter(kind="uniform")).items() if not taken & set(neurons)
    }
    assert 20 < len(kept) < 40
    assert members(both).items() >= kept.items()


def test_uniform_draws_are_uniform() -> None:
    n_sets, size, free = 4000, 3, 20
    layer = layer_of(norms(25), [0, 1, 2, 3, 4])
    drawn = np.array(draw_uniform("entropy", size, layer, n_sets=n_sets // 4, seed=0))
    counts = np.bincount(drawn.ravel(), minlength=25)[5:]
    expected = n_sets // 4 * size / free
    assert ((counts - expected) ** 2 / expected).sum() < 43.8  # 99.9 % point of chi-square, 19 degrees


def reachable(norm: np.ndarray, chosen: list[int], free: list[int], neighbours: int) -> set[frozenset[int]]:
    """Every norm-matched set by the definition: fill places in any order with one of the nearest that are left."""
    found = set()
    for order in itertools.permutations(range(len(chosen))):
        partial: list[dict[int, int]] = [{}]
        for place in order:
            longer = []
            for filled in partial:
                left = [n for n in free if n not in filled.values()]
                left.sort(key=lambda n: (abs(math.log(norm[n]) - math.log(norm[chosen[place]])), n))
                longer += [filled | {place: n} for n in left[:neighbours]]
            partial = longer
        found |= {frozenset(filled.values()) for filled in partial}
    return found


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    size=st.integers(1, 3),
    free=st.integers(3, 7),
    neighbours=st.integers(2, 4),
    more=st.integers(0, 5),
)
def test_all_possible_sets_can_be_had_and_no_more(seed: int, size: int, free: int, neighbours: int, more: int) -> None:
    norm = norms(size + free, seed)
    chosen, pool = list(range(size)), list(range(size, size + free))
    layer = layer_of(norm, chosen)
    possible = reachable(norm, chosen, pool, neighbours)
    drawn = draw_norm_matched(
        "s", np.array(chosen), layer, neighbours=neighbours, n_sets=max(1, len(possible) - more), seed=seed
    )
    sets = {frozenset(found.tolist()) for found in drawn}
    assert len(sets) == len(drawn) == max(1, len(possible) - more)
    assert sets <= possible
    with pytest.raises(CopyingSetError, match=rf"norm_matched.* lower it to {len(possible)} or less"):
        draw_norm_matched("s", np.array(chosen), layer, neighbours=neighbours, n_sets=len(possible) + 1, seed=seed)
    every = math.comb(free, size)
    assert len({frozenset(s.tolist()) for s in draw_uniform("s", size, layer, n_sets=every, seed=seed)}) == every
    with pytest.raises(CopyingSetError, match=rf"context_copying.controls.uniform: .* lower it to {every} or less"):
        draw_uniform("s", size, layer, n_sets=every + 1, seed=seed)


def test_matches_are_near_in_norm_and_drawn_among_the_neighbours() -> None:
    norm, chosen = norms(500, 8), [17, 100, 250]
    layer = layer_of(norm, chosen)
    drawn = np.array(draw_norm_matched("s", np.array(chosen), layer, neighbours=8, n_sets=60, seed=1))
    for place, neuron in enumerate(chosen):
        gaps = np.abs(np.log(norm) - math.log(norm[neuron]))
        gaps[chosen] = np.inf
        nearest = np.argsort(gaps)
        partners = set(drawn[:, place].tolist())
        assert set(nearest[:6].tolist()) <= partners <= set(nearest[:10].tolist())


def test_a_neuron_without_norm_is_no_control_and_has_no_match(run: Run, tmp_path: Path) -> None:
    norm = norms()
    norm[[3, 20, 21]] = 0.0
    folder = tmp_path / "dead"
    folder.mkdir()
    sets, _ = Run(folder, norm)(selection_frame(entropy=ENTROPY), uniform=60)
    drawn = sets.filter(pl.col("kind").is_in(["uniform", "norm_matched"]))
    assert not {20, 21} & set(drawn["neuron"])
    assert {len(part) for part in members(drawn.filter(kind="uniform")).values()} == {3}
    assert {len(part) for part in members(drawn.filter(kind="norm_matched")).values()} == {2}
    assert set(drawn.filter(kind="norm_matched")["matched"]) == {5, 41}


def test_too_few_neurons_are_refused_by_name(run: Run) -> None:
    many = selection_frame(entropy=[(LAST, neuron) for neuron in range(58)])
    with pytest.raises(CopyingSetError, match=r"controls.uniform: 3 different sets for 'entropy'.* lower it to 0"):
        run(many)
    single = selection_frame(one=[(LAST, 4)])
    with pytest.raises(
        CopyingSetError, match=r"norm_matched: 9 different sets for 'one'.*raise .*neighbours.* to 6 or"
    ):
        run(single, norm_matched=9)
    sets, _ = run(single, norm_matched=6, uniform=59)
    assert sets.filter(kind="norm_matched")["neuron"].n_unique() == 6
    assert set(sets.filter(kind="uniform")["neuron"]) == set(range(60)) - {4}


def test_only_neurons_of_the_last_layer_count(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    frame = selection_frame(mixed=[(1, 8), (LAST, 30), (0, 9), (LAST, 2)], early=[(0, 1)])
    sets, _ = run(frame)
    assert members(sets.filter(kind="selection")) == {"mixed": [30, 2]}
    assert "'early' has no neurons in the last layer" in capsys.readouterr().err
    with pytest.raises(
        CopyingSetError, match=r"context_copying.selections: 'early' has no neurons .* there are: mixed"
    ):
        run(frame, names=["early"])
    with pytest.raises(CopyingSetError, match=r"no selection 'mixt'; there are: mixed"):
        run(frame, names=["mixt"])
    with pytest.raises(CopyingSetError, match=r"no selection 'induction_driven'; it needs the part `heads`"):
        run(frame, names=["induction_driven"])


@pytest.mark.parametrize("frame", [selection_frame(early=[(0, 1)]), selection_frame()])
def test_without_sets_only_the_clean_model_is_left(run: Run, frame: pl.DataFrame, capsys) -> None:
    sets, variants = run(frame)
    assert sets.is_empty()
    assert variants.rows() == [(0, "clean", "clean", None, "none", None, 0)]
    assert "only the clean model" in capsys.readouterr().err
    assert read_groups(sets, variants, statistics_of(N)) == []
    nothing, alone = run()
    assert (len(nothing), len(alone)) == (0, 1)


def test_neurons_that_the_best_head_drives(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    moved, heads = head_tables()
    rows = moved.filter(layer=1, head=3, method="bos")
    expected = sorted(rows.iter_rows(named=True), key=lambda row: -abs(row["change"]) * row["norm"])[:3]
    sets, _ = run(selection_frame(entropy=ENTROPY), heads=True, induction_driven=3)
    driven = members(sets)["induction_driven"]
    assert driven == [row["neuron"] for row in expected]
    assert not set(driven) & set(sets.filter(pl.col("kind").is_in(["uniform", "norm_matched"]))["neuron"])
    only_mean = driven_by_best_head(moved.filter(method="mean"), heads, LAST, 2)
    by_mean = sorted(
        moved.filter(layer=1, head=3, method="mean").iter_rows(named=True), key=lambda r: -abs(r["change"]) * r["norm"]
    )
    assert only_mean == [row["neuron"] for row in by_mean[:2]]
    # Without scores on random tokens the others decide.
    natural = heads.filter(source="natural")
    other = moved.filter(layer=0, head=1, method="bos")
    strongest = max(other.iter_rows(named=True), key=lambda row: abs(row["change"]) * row["norm"])
    assert driven_by_best_head(moved, natural, LAST, 1) == [strongest["neuron"]]
    assert "induction_driven" not in members(
        run(selection_frame(entropy=ENTROPY), heads=True, induction_driven=None)[0]
    )
    assert "induction_driven" not in members(run(selection_frame(entropy=ENTROPY), heads=True, names=["entropy"])[0])
    assert (
        driven_by_best_head(moved.clear(), heads, LAST, 3) == driven_by_best_head(moved, heads.clear(), LAST, 3) == []
    )
    run(selection_frame(entropy=ENTROPY), heads=True, induction_driven=20)
    assert "8 of 20 neurons" in capsys.readouterr().err


def test_names_that_are_taken(run: Run) -> None:
    with pytest.raises(CopyingSetError, match=r"selections.clean"):
        run(selection_frame(clean=ENTROPY))
    with pytest.raises(CopyingSetError, match=r"selections.induction_driven"):
        run(selection_frame(induction_driven=ENTROPY), heads=True)
    with pytest.raises(CopyingSetError, match=r"layer 2, which has 60"):
        run(selection_frame(entropy=[(LAST, 60)]))


def test_numbering_of_variants(run: Run) -> None:
    sets, variants = run(selection_frame(entropy=ENTROPY, other=OTHER), doses=5, dose_controls=2, synthetic=1)
    names = list(members(sets))
    rows = [("clean", "none", None)]
    rows += [(name, replacement, None) for name in names for replacement in ("mean", "zero")]
    clamped = ["entropy", "other"]
    for name in ("entropy", "other"):
        kinds = (("uniform", 2), ("norm_matched", 2), ("synthetic", 1))
        clamped += [f"{name}/{kind}_{i:03d}" for kind, n in kinds for i in range(n)]
    rows += [(name, "dose", dose) for name in clamped for dose in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert variants.select("set", "replacement", "dose").rows() == rows
    assert variants["variant"].to_list() == list(range(len(rows)))
    sizes = {name: len(neurons) for name, neurons in members(sets).items()} | {"clean": 0}
    assert variants["n_neurons"].to_list() == [sizes[name] for name, _, _ in rows]
    about = {row["set"]: (row["kind"], row["control_of"]) for row in sets.iter_rows(named=True)}
    about["clean"] = ("clean", None)
    assert variants.select("kind", "control_of").rows() == [about[name] for name, _, _ in rows]
    none, _ = run(selection_frame(entropy=ENTROPY), doses=0)
    assert "dose" not in make_variants(none, ["mean"], doses=0, dose_controls=3)["replacement"]
    assert (
        make_variants(none, ["mean"], doses=2, dose_controls=0).filter(replacement="dose")["set"].to_list()
        == ["entropy"] * 2
    )


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["position_mean"], "'position_mean' is no constant"),
        (["mean", "resample"], "'resample' is no constant"),
        (["meen"], "'meen' is no replacement; there are mean"),
        (["mean", "mean"], "names 'mean' twice"),
        ([], "is empty"),
        (["dose"], "'dose' is no replacement"),
    ],
)
def test_replacements_that_variants_cannot_have(run: Run, names: list[str], message: str) -> None:
    with pytest.raises(VariantError, match=f"context_copying.replacements.*{message}"):
        run(selection_frame(entropy=ENTROPY), replacements=names)


def statistics_of(n: int, seed: int = 0) -> ActivationStatistics:
    rng = np.random.default_rng(seed)
    low, high = -rng.uniform(0.1, 0.2, n), rng.uniform(2, 5, n)
    mean, sd = rng.uniform(0, 1, n), rng.uniform(0.01, 3, n)
    return ActivationStatistics(
        mean, sd, rng.uniform(0, 1, n), rng.uniform(0, 1, n), low, high, np.full((n, 4), np.nan)
    )


def test_values_of_variants(run: Run) -> None:
    sets, variants = run(
        selection_frame(entropy=ENTROPY, other=OTHER), replacements=[*REPLACEMENTS, "constant:1.5"], doses=5
    )
    of = statistics_of(N)
    groups = read_groups(sets, variants, of)
    assert [group.neurons for group in groups] == [tuple(neurons) for neurons in members(sets).values()]
    assert sorted(np.concatenate([group.variants for group in groups])) == list(range(1, len(variants)))
    draws = dict(sets.select("set", "draw").iter_rows())
    by_variant = {row["variant"]: row for row in variants.iter_rows(named=True)}
    for name, group in zip(members(sets), groups, strict=True):
        assert group.draw == draws[name]
        assert group.values.dtype == np.float64
        for variant, values in zip(group.variants, group.values, strict=True):
            row = by_variant[int(variant)]
            assert row["set"] == name
            for neuron, value in zip(group.neurons, values, strict=True):
                low, high, mean, sd = (float(getattr(of, key)[neuron]) for key in ("min", "max", "mean", "sd"))
                expected = {
                    "mean": mean,
                    "median": of.median[neuron],
                    "mode": of.mode[neuron],
                    "mean-3sd": max(mean - 3 * sd, low),
                    "mean+3sd": min(mean + 3 * sd, high),
                    "zero": 0.0,
                    "constant:1.5": 1.5,
                    "dose": None if row["dose"] is None else low + row["dose"] * (high - low),
                }[row["replacement"]]
                assert value == pytest.approx(expected, rel=1e-14)
    ends = [values[i] for values in (groups[0].values[-5:],) for i in (0, 4)]
    np.testing.assert_array_equal(ends, [of.min[[5, 3, 41]], of.max[[5, 3, 41]]])


@pytest.mark.parametrize(("column", "value"), [("mode", np.nan), ("mean", np.inf), ("max", np.nan)])
def test_a_value_that_is_no_number_is_refused(run: Run, column: str, value: float) -> None:
    """B defects 2 and 3: infinite deviations became the extremes, a mode that is NaN made every answer ND."""
    sets, variants = run(selection_frame(entropy=ENTROPY), replacements=["mean", "mode"])
    of = statistics_of(N)
    getattr(of, column)[41] = value
    with pytest.raises(VariantError, match=r"neurons \[41\] \(set 'entropy'\) is not a number"):
        read_groups(sets, variants, of)
    elsewhere = statistics_of(N)
    getattr(elsewhere, column)[next(n for n in range(N) if n not in set(sets["neuron"]))] = value
    assert len(read_groups(sets, variants, elsewhere)) == sets["set"].n_unique()


def test_tables_that_do_not_belong_together(run: Run) -> None:
    sets, variants = run(selection_frame(entropy=ENTROPY))
    with pytest.raises(VariantError, match="set 'entropy' is not the one in sets"):
        read_groups(sets.filter(rank=0), variants, statistics_of(N))
    with pytest.raises(VariantError, match="set 'entropy' is not the one in sets"):
        read_groups(sets.filter(pl.col("kind") != "selection"), variants, statistics_of(N))
    with pytest.raises(VariantError, match="gaps or repetitions"):
        read_groups(sets, variants.filter(pl.col("variant") != 2), statistics_of(N))
    with pytest.raises(VariantError, match="the statistics' layer has 10"):
        read_groups(sets, variants, statistics_of(10))


@settings(max_examples=30, deadline=None)
@given(
    size=st.integers(1, 5),
    overlap=st.booleans(),
    counts=st.tuples(*[st.integers(0, 6)] * 3),
    neighbours=st.integers(6, 40),
    seed=st.integers(0, 2**31),
)
def test_properties_of_every_table(size: int, overlap: bool, counts: tuple, neighbours: int, seed: int) -> None:
    norm = norms(40, seed)
    order = np.random.default_rng(seed).permutation(40)
    selections = {"a": order[:size].tolist(), "b": order[(0 if overlap else size) :][: size + 1].tolist()}
    taken = sorted({n for neurons in selections.values() for n in neurons})
    kinds = dict(zip(("uniform", "norm_matched", "synthetic"), counts, strict=True))
    frame = check_frame(
        make_sets(norm, LAST, selections, taken, **kinds, neighbours=neighbours, seed=seed), "copying_sets"
    )
    for name, neurons in selections.items():
        assert members(frame)[name] == neurons
        for kind, n in kinds.items():
            sets = members(frame.filter(control_of=name, kind=kind))
            assert list(sets) == [f"{name}/{kind}_{i:03d}" for i in range(n)]
            for control in sets.values():
                assert len(set(control)) == len(neurons) == len(control)
                assert set(control) == set(neurons) if kind == "synthetic" else not set(control) & set(taken)
    assert frame.select("set", "rank").is_unique().all()


def test_no_torch() -> None:
    code = "import sys, neuronlab.copying_sets; sys.exit('torch' in sys.modules)"
    scripts = Path(__file__).parents[2] / "workflow_scripts"
    assert subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": str(scripts)}, check=False).returncode == 0
