"""Clipped mean ablation along a repetition, against hooked forward passes, sequence by sequence and place by place."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from neuronlab import induction_ablation
from neuronlab.ablation import AblationError
from neuronlab.activations import measure_activations
from neuronlab.clipped_ablation import FLOOR, Clip
from neuronlab.final_states import AblationInputs, last_layer
from neuronlab.induction import measure_induction
from neuronlab.induction_ablation import ablate_induction
from neuronlab.model_files import ModelSpec
from neuronlab.models import Model
from neuronlab.repeats import empty_table
from neuronlab.repetition import Repetition
from neuronlab.schemas import SCHEMAS
from neuronlab.tables import read_table, write_table
from scipy.stats import ttest_1samp
from text_files import counts_frame, write_text

NEURONS, LAYER, LENGTH = 48, 1, 5
DOCUMENTS = (0, 0, 1, 2, 2, 3)
SETS = {
    "entropy": ("selection", None, [5, 7, 11]),
    "entropy/uniform_000": ("uniform", "entropy", [1, 2, 3]),
    "entropy/norm_matched_000": ("norm_matched", "entropy", [2, 20, 30]),  # 20 is selected elsewhere
    "alone": ("selection", None, [20]),
    "alone/uniform_000": ("uniform", "alone", [40]),
    "alone/uniform_001": ("uniform", "alone", [3]),  # a control neuron of both selections
}
CONTROLS = {
    "entropy": ["entropy/uniform_000", "entropy/norm_matched_000"],
    "alone": ["alone/uniform_000", "alone/uniform_001"],
    **{f"1.{neuron}": ["1.1", "1.2", "1.3", "1.30"] for neuron in (5, 7, 11)},
    "1.20": ["1.40", "1.3"],
}


def selection_frame(layer: int = LAYER) -> pl.DataFrame:
    rows = [
        {"set": name, "kind": kind, "control_of": control_of, "neuron": neuron, "rank": rank}
        for name, (kind, control_of, neurons) in SETS.items()
        for rank, neuron in enumerate(neurons)
    ]
    none = {"matched": pl.lit(None, pl.Int32), "norm_ratio": pl.lit(None, pl.Float64)}
    frame = pl.DataFrame(rows, infer_schema_length=None).with_columns(rule=pl.lit("-"), layer=pl.lit(layer), **none)
    elsewhere = frame.head(1).with_columns(layer=pl.lit(1 - layer), neuron=pl.lit(9), rank=pl.lit(9))
    return pl.concat([frame, elsewhere, elsewhere.with_columns(set=pl.lit("other_layer"))], how="diagonal_relaxed")


def made_repeats() -> pl.DataFrame:
    """BOS, a stretch, a separator, the stretch: the last copy ends with the sequence."""
    stretches = np.random.default_rng(1).integers(2, 196, (len(DOCUMENTS), LENGTH))
    one = np.ones((len(DOCUMENTS), 1), dtype=int)
    tokens = np.concatenate([0 * one, stretches, 9 * one, stretches], axis=1)
    copy, offset = [-1, *[0] * LENGTH, -1, *[1] * LENGTH], [0, *range(LENGTH), 0, *range(LENGTH)]
    return repeats_frame(tokens.tolist(), [copy] * len(tokens), [offset] * len(tokens))


def found_repeats() -> pl.DataFrame:
    """Prefix of two, the token after it and up to two more, cut by the other occurrence or by the sequence's end."""
    n, positions = len(DOCUMENTS), 16
    tokens = np.random.default_rng(2).integers(2, 196, (n, positions))
    copy, offset = np.full((n, positions), -1), np.zeros((n, positions), dtype=int)
    for row, (first, second, end) in enumerate([(1, 8, 3), (2, 6, 2), (0, 12, 2), (3, 9, 3), (2, 13, 1), (4, 11, 3)]):
        for number, start in enumerate((first, second)):
            places = np.arange(-2, end)
            copy[row, start + 2 + places], offset[row, start + 2 + places] = number, places
    return repeats_frame(tokens.tolist(), copy.tolist(), offset.tolist())


def repeats_frame(tokens: list, copy: list, offset: list) -> pl.DataFrame:
    columns = {"tokens": tokens, "copy": copy, "offset": offset, "document": DOCUMENTS, "continues": [True] * len(copy)}
    return pl.DataFrame({"sequence": range(len(tokens)), **columns}).select(list(SCHEMAS["repeats"]))


@dataclass(frozen=True)
class Run:
    """The rule's inputs in a folder."""

    folder: Path
    inputs: AblationInputs

    def path(self, name: str) -> Path:
        return self.folder / f"{name}.parquet"

    def write(self, frame: pl.DataFrame, name: str, schema: str) -> Path:
        write_table(frame, self.path(name), schema)
        return self.path(name)

    def ablate(self, repeats: Path, scores: Path, kind: str, **options: object) -> tuple[pl.DataFrame, pl.DataFrame]:
        options = {"selection": [self.path("selection")], "resamples": 100, **options}
        paths = {name: self.path(name) for name in ("ablation", "tests")}
        ablate_induction(inputs=self.inputs, repeats=repeats, scores=scores, kind=kind, **paths, **options)
        return read_table(paths["ablation"], "induction_ablation"), read_table(paths["tests"], "induction_tests")


def make_run(directory: Path, folder: Path) -> Run:
    write_text(folder)
    spec = ModelSpec("tiny", "directory", path=str(directory), device="cpu", dtype="float64")
    files = {name: folder / f"{name}.parquet" for name in ("tokens", "counts", "statistics")}
    measure_activations(model=spec, **files, baseline=folder / "baseline.parquet", layers=[-1], batch_size=4)
    run = Run(folder, AblationInputs(model=spec, **files, kernel="torch", batch_size=4, tokens_per_chunk=11))
    run.write(selection_frame(), "selection", "selection")
    run.write(made_repeats(), "made", "repeats")
    run.write(found_repeats(), "found", "repeats")
    paths = {name: run.path(name) for name in ("profile", "scores")}
    measure_induction(
        inputs=run.inputs, selection=[run.path("selection")], repeats=run.path("made"), kind="synthetic", resamples=100,
        **paths,
    )  # fmt: skip
    # Natural repetitions with directions of both signs, and a mean on the first copy that must not be used.
    rng = np.random.default_rng(3)
    natural = read_table(run.path("scores"), "induction_scores").with_columns(
        direction=pl.Series(rng.choice([-1, 1], NEURONS)), mean_first=pl.lit(100.0)
    )
    run.write(natural, "natural_scores", "induction_scores")
    return run


@pytest.fixture(scope="module")
def runs(tiny_directories: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Run]:
    made: dict[str, Run] = {}

    def get(architecture: str) -> Run:
        if architecture not in made:
            made[architecture] = make_run(tiny_directories[architecture], tmp_path_factory.mktemp(architecture))
        return made[architecture]

    return get


@pytest.fixture
def run(runs: Callable[[str], Run]) -> Run:
    return runs("gpt2")


Key = tuple[str, str, int, int]  # set, variant, copy, offset


@dataclass
class Oracle:
    """Entropy and loss of every sequence before and after, by key, from hooked forward passes."""

    before: dict[Key, list[tuple[float, float]]]
    after: dict[Key, list[tuple[float, float]]]
    rows: dict[Key, list[int]]

    @classmethod
    def of(cls, model: Model, repeats: pl.DataFrame, bound: np.ndarray, direction: np.ndarray) -> Oracle:
        oracle = cls(defaultdict(list), defaultdict(list), defaultdict(list))
        sets = {name: neurons for name, (_, _, neurons) in SETS.items()}
        sets |= {f"1.{n}": [n] for neurons in list(sets.values()) for n in neurons}
        readout = model.readout(torch.float64)
        for row in repeats.iter_rows(named=True):
            ids = torch.tensor([row["tokens"]])
            own = model.activations(ids, [LAYER])[LAYER][0]
            clean, residual = outcomes(model.logits(ids)[0], ids[0]), model.run(ids).residual[0]
            for name, neurons in sets.items():
                clipped = own[:, neurons].clone()
                for column, neuron in enumerate(neurons):
                    for position in range(len(clipped)):
                        a, mu = float(own[position, neuron]), float(bound[neuron])
                        clipped[position, column] = min(a, mu) if direction[neuron] > 0 else max(a, mu)
                replace = (LAYER, neurons, clipped[None])
                after = {"total": outcomes(model.logits(ids, replace)[0], ids[0])}
                moved = model.residual_after(ids, replace)[0]
                after["direct"] = outcomes(readout.logits(moved, readout.scale(residual)), ids[0])
                for variant, values in after.items():
                    for position in range(len(row["tokens"]) - 1):
                        if row["copy"][position] >= 0:
                            key = (name, variant, row["copy"][position], row["offset"][position])
                            oracle.before[key].append(clean[position])
                            oracle.after[key].append(values[position])
                            oracle.rows[key].append(row["sequence"])
        return oracle

    def changes(self, name: str, variant: str, outcome: str, copy: int) -> dict[int, float]:
        """Mean change of every sequence over the offsets that it has in both copies."""
        which = ("entropy", "loss").index(outcome)
        both = defaultdict(set)
        for _, _, number, offset in self.rows:
            for sequence in self.rows[name, variant, number, offset]:
                both[sequence, offset].add(number)
        found = defaultdict(list)
        for (a_set, a_variant, number, offset), sequences in self.rows.items():
            if (a_set, a_variant, number) == (name, variant, copy):
                key = (a_set, a_variant, number, offset)
                for i, sequence in enumerate(sequences):
                    if both[sequence, offset] == {0, 1}:
                        found[sequence].append(self.after[key][i][which] - self.before[key][i][which])
        return {sequence: float(np.mean(values)) for sequence, values in found.items()}


def outcomes(logits: torch.Tensor, ids: torch.Tensor) -> list[tuple[float, float]]:
    """Entropy and loss at every position but the last."""
    lp = logits.double().log_softmax(-1)
    return [(float(-(row.exp() * row).sum()), float(-row[ids[i + 1]])) for i, row in enumerate(lp[:-1])]


def check(oracle: Oracle, ablation: pl.DataFrame, tests: pl.DataFrame) -> None:
    near = {"abs": 2e-6, "rel": 1e-5}
    keys = ablation.select("set", "variant", "copy", "offset").rows()
    assert len(set(keys)) == len(keys)
    assert set(keys) == set(oracle.rows)
    for row in ablation.iter_rows(named=True):
        key = (row["set"], row["variant"], row["copy"], row["offset"])
        before, after = np.array(oracle.before[key]), np.array(oracle.after[key])
        assert row["n_sequences"] == len(before)
        assert row["entropy_ratio"] == pytest.approx((after / before)[:, 0].mean(), **near)
        assert row["loss_ratio"] == pytest.approx(after[:, 1].mean() / before[:, 1].mean(), **near)
        assert row["entropy_change"] == pytest.approx((after - before)[:, 0].mean(), **near)
        assert row["loss_change"] == pytest.approx((after - before)[:, 1].mean(), **near)
    means = {}
    for row in tests.iter_rows(named=True):
        key = (row["set"], row["variant"], row["outcome"], row["copy"])
        changes = oracle.changes(*key)
        documents = defaultdict(list)
        for sequence, change in changes.items():
            documents[DOCUMENTS[sequence]].append(change)
        assert (row["n_sequences"], row["n_documents"]) == (len(changes), len(documents))
        assert row["mean_change"] == pytest.approx(np.mean(list(changes.values())), **near)
        means[key] = abs(row["mean_change"])
        of_documents = [np.mean(values) for values in documents.values()]
        if np.std(of_documents) > 1e-3:  # elsewhere rounding decides
            expected = ttest_1samp(of_documents, 0)
            assert row["t"] == pytest.approx(expected.statistic, rel=5e-3)
            assert row["p_value"] == pytest.approx(expected.pvalue, rel=5e-2)
    for row in tests.iter_rows(named=True):
        rivals = CONTROLS.get(row["set"], [])
        assert row["n_controls"] == len(rivals)
        others = (row["variant"], row["outcome"], row["copy"])
        larger = sum(means[rival, *others] >= means[row["set"], *others] for rival in rivals)
        assert row["p_value_controls"] == (pytest.approx((1 + larger) / (1 + len(rivals))) if rivals else None)


@pytest.mark.parametrize("architecture", ["gpt2", "gpt_neox", "llama"])
def test_made_repetitions_are_clipped_to_the_mean_of_the_first_copy(
    runs: Callable[[str], Run], tiny_model: Callable[..., Model], architecture: str
) -> None:
    """Singly and jointly, total and direct (METHODS A4, A defect 13), with means and directions taken anew."""
    run, model = runs(architecture), tiny_model(architecture, "float64")
    ids = torch.tensor(made_repeats()["tokens"].to_list())
    own = model.activations(ids, [LAYER])[LAYER].numpy()
    first, second = own[:, 1:LENGTH].mean((0, 1)), own[:, LENGTH + 2 : 2 * LENGTH + 1].mean((0, 1))
    ablation, tests = run.ablate(run.path("made"), run.path("scores"), "synthetic")
    check(Oracle.of(model, made_repeats(), first, np.sign(second - first)), ablation, tests)
    assert ablation["entropy_change"].abs().max() > 1e-2
    joint = tests.filter((pl.col("set") == "entropy") & (pl.col("variant") == "total") & (pl.col("outcome") == "loss"))
    assert joint["mean_change"].abs().min() > 1e-4


@pytest.mark.parametrize("architecture", ["gpt_neox", "llama"])
def test_found_repetitions_are_clipped_to_the_mean_of_the_text(
    runs: Callable[[str], Run], tiny_model: Callable[..., Model], architecture: str
) -> None:
    run, model = runs(architecture), tiny_model(architecture, "float64")
    text = read_table(run.path("tokens"), "tokens")
    counted = torch.tensor(text["counted"].to_list())
    mean = model.activations(torch.tensor(text["tokens"].to_list()), [LAYER])[LAYER][counted].mean(0).numpy()
    scores = read_table(run.path("natural_scores"), "induction_scores")
    ablation, tests = run.ablate(run.path("found"), run.path("natural_scores"), "natural")
    check(Oracle.of(model, found_repeats(), mean, scores["direction"].to_numpy()), ablation, tests)
    assert ablation["n_sequences"].n_unique() > 1
    same = run.ablate(run.path("found"), run.path("natural_scores"), "natural", value="text_mean")
    assert same[0].equals(ablation)
    made = run.ablate(run.path("made"), run.path("natural_scores"), "synthetic", value="text_mean")
    check(Oracle.of(model, made_repeats(), mean, scores["direction"].to_numpy()), *made)


def test_clipping_has_one_direction(run: Run, tiny_model: Callable[..., Model]) -> None:
    last = last_layer(tiny_model("gpt2"), counts_frame(), include_padded=False, kernel="torch")
    scores = read_table(run.path("scores"), "induction_scores").with_columns(
        direction=pl.Series([1, -1] * (NEURONS // 2)), mean_first=pl.lit(0.5)
    )
    clip = Clip.of_scores(scores, last, None, "scores")
    delta = clip.delta(torch.tensor([[0.2, 0.2], [0.9, 0.9], [0.5, 0.5]], dtype=torch.float64), [4, 7])
    torch.testing.assert_close(delta, torch.tensor([[0, 0.3], [-0.4, 0], [0, 0]], dtype=torch.float64))
    exact = read_table(run.path("scores"), "induction_scores")
    assert Clip.of_scores(exact, last, None, "scores").bound.tolist() == exact["mean_first"].to_list()
    with pytest.raises(AblationError, match="47 of the 48 neurons"):
        Clip.of_scores(exact.head(47), last, None, "scores")


def test_a_last_position_is_averaged_nowhere(run: Run) -> None:
    """METHODS A defect 5: it has no next token. Whatever stands there changes nothing."""
    other = made_repeats().with_columns(
        tokens=pl.Series([[*ids[:-1], 3 + i] for i, ids in enumerate(made_repeats()["tokens"].to_list())])
    )
    first = run.ablate(run.path("made"), run.path("scores"), "synthetic")
    assert {(c, o) for c, o in first[0].select("copy", "offset").rows()} == {
        (copy, offset) for copy in (0, 1) for offset in range(LENGTH) if (copy, offset) != (1, LENGTH - 1)
    }
    # The last token is the loss' target at the position before it.
    second = run.ablate(run.write(other, "other", "repeats"), run.path("scores"), "synthetic")
    before = (pl.col("copy") == 1) & (pl.col("offset") == LENGTH - 2)
    for frame in (first[0], second[0]):
        assert frame.filter(before)["n_sequences"].unique().to_list() == [len(DOCUMENTS)]
    assert first[0].filter(~before).equals(second[0].filter(~before))
    assert first[0].filter(before)["entropy_ratio"].equals(second[0].filter(before)["entropy_ratio"])
    assert not first[0].filter(before)["loss_change"].equals(second[0].filter(before)["loss_change"])


def test_holm_counts_the_rows_of_a_kind(run: Run) -> None:
    _, tests = run.ablate(run.path("made"), run.path("scores"), "synthetic")
    corrected = tests.filter(pl.col("p_value_holm").is_not_null())
    assert corrected["set"].unique().sort().to_list() == ["1.11", "1.20", "1.5", "1.7", "alone", "entropy"]
    for kind, number in (("selection", 2 * 8), ("single", 4 * 8)):
        rows = corrected.filter(pl.col("kind") == kind).sort("p_value")
        assert len(rows) == number
        assert rows["p_value_holm"][0] == pytest.approx(min(1, rows["p_value"][0] * number))
        running = 0.0
        for i, (p, q) in enumerate(rows.select("p_value", "p_value_holm").rows()):
            running = max(running, min(1, p * (number - i)))
            assert q == pytest.approx(running)


def test_sets_in_parts_and_other_chunks_change_nothing_but_rounding(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run.ablate(run.path("found"), run.path("natural_scores"), "natural")
    first = run.path("ablation").read_bytes(), run.path("tests").read_bytes()
    run.ablate(run.path("found"), run.path("natural_scores"), "natural")
    assert (run.path("ablation").read_bytes(), run.path("tests").read_bytes()) == first
    monkeypatch.setattr(induction_ablation, "SUMS_BYTES", 1)
    parts = run.ablate(run.path("found"), run.path("natural_scores"), "natural")
    for a, b in zip(whole, parts, strict=True):
        assert a.select(pl.col(pl.String, pl.Int32, pl.Int64)).equals(b.select(pl.col(pl.String, pl.Int32, pl.Int64)))
        for name in ("entropy_change", "entropy_ratio_low", "loss_change_high", "mean_change"):
            if name in a.columns:
                np.testing.assert_allclose(a[name].to_numpy(), b[name].to_numpy(), atol=2e-6)


def test_a_place_of_almost_no_entropy_has_no_ratio(run: Run) -> None:
    """The mean of ratios is over the sequences above the floor; the changes are over all."""
    repetition = Repetition.read(run.path("made"))
    places, documents = len(repetition.places), repetition.documents
    shape = (2, documents, places, 1)
    n = repetition.over_documents(np.ones((len(DOCUMENTS), places)))
    usable = n.copy()
    usable[:, 0], usable[0, 1] = 0, 0
    loss = n * np.array([FLOOR / 2, *[1.0] * (places - 1)])
    sums = induction_ablation.Sums(
        n=n, usable=usable, loss=loss, ratio=np.broadcast_to(1.5 * usable[..., None], shape).copy(),
        entropy_change=np.broadcast_to(n[..., None], shape).copy(),
        loss_change=np.broadcast_to(n[..., None], shape).copy(), changes=np.zeros((2, 2, 2, len(DOCUMENTS), 1)),
    )  # fmt: skip
    one = [induction_ablation.NeuronSet("1.5", "single", None, (5,))]
    weights = np.random.default_rng(0).multinomial(documents, np.full(documents, 1 / documents), 200).astype(float)
    frame = induction_ablation.profile_frame(repetition, sums, one, weights, 0.9)
    rows = frame.filter(pl.col("variant") == "total")
    assert rows["entropy_ratio"].to_list() == [None, *[1.5] * (places - 1)]
    assert rows["loss_ratio"].to_list() == [None, *[2.0] * (places - 1)]
    assert rows["entropy_change"].to_list() == [1.0] * places


def empty_inputs(run: Run, what: str) -> tuple[Path, Path, Sequence[Path]]:
    repeats, scores, selection = made_repeats(), read_table(run.path("scores"), "induction_scores"), selection_frame()
    if what == "repeats":
        repeats, scores = empty_table(), scores.head(0)
    elif what == "copies":
        repeats = repeats.with_columns(copy=pl.Series([[-1] * (2 * LENGTH + 2)] * len(DOCUMENTS)))
    elif what == "selection":
        selection = selection.head(0)
    elif what == "last layer":
        selection = selection.filter(pl.col("layer") == 0)
    return (
        run.write(repeats, "a", "repeats"),
        run.write(scores, "b", "induction_scores"),
        [run.write(selection, "c", "selection")],
    )


@pytest.mark.parametrize("what", ["repeats", "copies", "selection", "last layer"])
def test_nothing_to_ablate_gives_empty_tables(run: Run, what: str) -> None:
    repeats, scores, selection = empty_inputs(run, what)
    for kind in ("synthetic", "natural"):
        assert [len(frame) for frame in run.ablate(repeats, scores, kind, selection=selection)] == [0, 0]


def test_one_copy_and_one_document(run: Run) -> None:
    """No interval, no t test, and the copy counts as the first and the last."""
    single = made_repeats().with_columns(
        document=pl.lit(4, pl.Int32), copy=pl.Series([[-1, *[0] * LENGTH, *[-1] * (LENGTH + 1)]] * len(DOCUMENTS))
    )
    ablation, tests = run.ablate(run.write(single, "single", "repeats"), run.path("scores"), "synthetic")
    assert ablation["copy"].unique().to_list() == tests["copy"].unique().to_list() == [0]
    assert ablation["entropy_ratio"].null_count() == 0
    for frame, columns in ((ablation, ["entropy_ratio_low", "loss_change_high"]), (tests, ["t", "p_value_holm"])):
        assert all(frame[name].null_count() == len(frame) for name in columns)


def test_copies_that_share_no_place_are_not_compared(run: Run) -> None:
    offset = [0, *range(LENGTH), 0, *range(10, 10 + LENGTH)]
    frame = made_repeats().with_columns(offset=pl.Series([offset] * len(DOCUMENTS)))
    ablation, tests = run.ablate(run.write(frame, "apart", "repeats"), run.path("scores"), "synthetic")
    assert len(ablation)
    assert not len(tests)


def test_bad_input_is_refused_by_name(run: Run) -> None:
    made, scores = run.path("made"), run.path("scores")
    with pytest.raises(AblationError, match=r"'natrual'.*synthetic, natural"):
        run.ablate(made, scores, "natrual")
    with pytest.raises(AblationError, match=r"induction\.value is 'zero'"):
        run.ablate(made, scores, "synthetic", value="zero")
    twice = made_repeats().with_columns(offset=pl.Series([[0] * (2 * LENGTH + 2)] * len(DOCUMENTS)))
    with pytest.raises(AblationError, match="twice in a sequence"):
        run.ablate(run.write(twice, "twice", "repeats"), scores, "synthetic")
