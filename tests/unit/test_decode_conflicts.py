"""Rule `decode_conflicts` end to end on tiny models: against naive generation, in shards, with wrong input."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from conflict_files import NEW_TOKENS, ConflictFiles, write_conflicts
from hypothesis import given, settings
from hypothesis import strategies as st
from neuronlab.answer_text import label_answer, split_answer
from neuronlab.conflict_prompts import ConflictPromptError, Conflicts, label_fixed, longest_object
from neuronlab.conflict_tables import TABLES
from neuronlab.copying_variants import VariantError, read_groups
from neuronlab.decode_conflicts import decode_conflicts, kernel_for
from neuronlab.last_layers import last_layer_of
from neuronlab.model_files import ModelSpec
from neuronlab.models import Model
from neuronlab.naive_decoding import generate
from neuronlab.prompt_tokens import continuation_text
from neuronlab.replacements import ActivationStatistics, ReplacementError
from neuronlab.tables import read_provenance, read_table, write_table
from tiny_models import make_tokenizer

OUTPUTS = (*TABLES, "costs")
SCHEMAS = {name: name for name in TABLES} | {"costs": "decoding_costs"}
TOKENIZER = make_tokenizer()


def decode(
    files: ConflictFiles, spec: ModelSpec, folder: Path, shard: int = 0, shards: int = 1, **options: object
) -> dict[str, pl.DataFrame]:
    folder.mkdir(exist_ok=True, parents=True)
    paths = {name: folder / f"{name}_{shard}_{shards}.parquet" for name in OUTPUTS}
    options = {"new_tokens": NEW_TOKENS, "batch_size": 3, "tokens_per_chunk": 5} | options
    decode_conflicts(model=spec, **files.paths, **paths, shard=shard, shards=shards, **options)
    return {name: read_table(path, SCHEMAS[name]) for name, path in paths.items()}


@pytest.fixture(scope="module")
def made(
    tiny_model: Callable[..., Model], tiny_directories: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[ConflictFiles, ModelSpec, dict[str, pl.DataFrame]]]:
    """Files, model and tables of an architecture, once."""
    found: dict[str, tuple[ConflictFiles, ModelSpec, dict[str, pl.DataFrame]]] = {}

    def make(name: str) -> tuple[ConflictFiles, ModelSpec, dict[str, pl.DataFrame]]:
        if name not in found:
            folder = tmp_path_factory.mktemp(name)
            files = write_conflicts(folder, tiny_model(name), synthetic=name != "gemma2")
            spec = ModelSpec(name, "directory", path=str(tiny_directories[name]), device="cpu")
            found[name] = files, spec, decode(files, spec, folder / "out")
        return found[name]

    return make


@pytest.mark.parametrize("layout", ["gpt2", "gpt_neox", "llama", "gemma2"])
def test_every_pair_is_what_hooks_generate(layout: str, made: Callable, tiny_model: Callable[..., Model]) -> None:
    """Tokens, texts and labels of all prompts under all variants, generated one by one in float64.

    Of layouts but the first every third pair is generated.
    """
    files, _, tables = made(layout)
    exact = tiny_model(layout, "float64")
    last = last_layer_of(exact, kernel="torch")
    table, conflicts = files.table("variants"), files.table("conflicts")
    layer = ActivationStatistics.of_layer(files.table("statistics"), last.layer, last.neurons)
    place = {
        int(v): (group, row)
        for group in read_groups(files.table("sets"), table, layer)
        for row, v in enumerate(group.variants)
    }
    finished = label_fixed(exact.tokenizer, longest_object(conflicts))
    said = {(row["prompt"], row["continuation"]): row for row in tables["continuations"].iter_rows(named=True)}
    pairs = tables["decoded"] if layout == "gpt2" else tables["decoded"].gather_every(3)
    for row in pairs.iter_rows(named=True):
        prompt = conflicts.row(row["prompt"], named=True)
        group, at = place.get(row["variant"], (None, 0))
        tokens, gaps = generate(exact, last, prompt["tokens"], group, at, new_tokens=NEW_TOKENS, finished=finished)
        assert min(gaps) > 1e-4  # no ties: the comparison must be exact
        one = said[row["prompt"], row["continuation"]]
        assert tuple(one["tokens"]) == tokens
        answer, _ = split_answer(continuation_text(exact.tokenizer, tokens))
        assert one["answer"] == answer
        assert row["label"] == one["label"] == label_answer(answer, prompt["counter"], prompt["answer"])
    assert len(tables["decoded"]) == len(conflicts) * len(table)
    changed = tables["decoded"].filter(pl.col("continuation") > 0)
    assert len(changed) > 5
    assert tables["decoded"]["label"].n_unique() == 3


def test_tables_are_keyed_and_consistent(made: Callable) -> None:
    files, _, tables = made("gpt2")
    n_prompts, n_variants = len(files.table("conflicts")), len(files.table("variants"))
    decoded, continuations, states = (tables[name] for name in TABLES)
    keys = list(itertools.product(range(n_prompts), range(n_variants)))
    assert decoded.select("prompt", "variant").rows() == keys
    assert decoded.filter(pl.col("variant") == 0)["continuation"].unique().to_list() == [0]
    used = decoded.select("prompt", "continuation").unique().sort("prompt", "continuation")
    assert used.equals(continuations.select("prompt", "continuation"))
    for _, part in continuations.group_by("prompt"):
        assert len({tuple(tokens) for tokens in part["tokens"].to_list()}) == len(part)
    whole = states.filter(pl.col("route").is_in(["clean", "total"]))
    both = whole.join(decoded, on=["prompt", "variant"])
    assert len(both) == len(whole)
    np.testing.assert_array_equal(both["entropy"], both["entropy_right"])
    assert states.select("prompt", "variant", "route").is_unique().all()
    cost = tables["costs"].row(0, named=True)
    assert cost["n_prompts"] == n_prompts
    assert cost["n_variants"] == n_variants
    assert cost["n_continuations"] == len(continuations)
    lengths = continuations.with_columns(n=pl.col("tokens").list.len()).select("prompt", "continuation", "n")
    assert cost["naive_prefixes"] == decoded.join(lengths, on=["prompt", "continuation"])["n"].sum()
    assert n_prompts < cost["prefixes"] < cost["naive_prefixes"]


def test_states_are_read_for_selections_alone(made: Callable) -> None:
    """Neither controls nor doses; the clean model once."""
    files, _, tables = made("gpt2")
    variants = files.table("variants")
    wanted = variants.filter((pl.col("kind") == "selection") & pl.col("dose").is_null())["variant"].to_list()
    states = tables["states"]
    assert states["variant"].unique().sort().to_list() == [0, *wanted]
    assert states.filter(pl.col("variant") == 0)["route"].unique().to_list() == ["clean"]
    assert set(states.filter(pl.col("variant") != 0)["route"]) == {"total", "direct", "norm"}


def test_shards_are_the_whole(made: Callable, tmp_path: Path) -> None:
    """Nine shards of seven prompts: two are empty, and together they are the table of one."""
    files, spec, whole = made("gpt_neox")
    parts = [decode(files, spec, tmp_path, shard, 9) for shard in range(9)]
    assert [len(part["continuations"]) == 0 for part in parts] == [False] * 7 + [True] * 2
    assert [part["costs"].row(0, named=True)["n_prompts"] for part in parts] == [1] * 7 + [0] * 2
    assert [part["costs"].row(0, named=True)["shard"] for part in parts] == list(range(9))
    for name in TABLES:
        together = pl.concat([part[name] for part in parts]).sort(whole[name].columns[:3], maintain_order=True)
        order = whole[name].sort(whole[name].columns[:3], maintain_order=True)
        exact = [column for column, dtype in order.schema.items() if dtype != pl.Float64]
        assert together.select(exact).equals(order.select(exact))
        for column in set(order.columns) - set(exact):
            ours, theirs = (frame[column].to_numpy() for frame in (together, order))
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_same_input_same_bytes(made: Callable, tmp_path: Path) -> None:
    files, spec, _ = made("gpt2")
    for name in ("a", "b"):
        decode(files, spec, tmp_path / name)
    for one in (tmp_path / "a").iterdir():
        assert one.read_bytes() == (tmp_path / "b" / one.name).read_bytes()


def test_the_record_names_the_kernel(made: Callable, tmp_path: Path) -> None:
    files, spec, _ = made("gpt2")
    decode(files, spec, tmp_path, kernel="brute_force")
    assert read_provenance(tmp_path / "decoded_0_1.parquet")["kernel"] == "brute_force"


def test_kernel_follows_the_work() -> None:
    assert kernel_for("auto", 450, 2000, 1187) == "torch"
    assert kernel_for("auto", 2000, 2000, 50257) == "auto"
    assert kernel_for("numba", 1, 1, 1) == "numba"


def rewritten(files: ConflictFiles, folder: Path, name: str, change: Callable[[pl.DataFrame], pl.DataFrame]) -> None:
    """The files again, one of them changed. The copy's fields are `folder`'s."""
    schema = {"statistics": "activation_statistics", "sets": "copying_sets"}
    for one, path in files.paths.items():
        frame = files.table(one)
        write_table(change(frame) if one == name else frame, folder / path.name, schema.get(one, one))


def at(folder: Path) -> ConflictFiles:
    return ConflictFiles(*(folder / f"{name}.parquet" for name in ConflictFiles.__dataclass_fields__))


@pytest.mark.parametrize(
    ("name", "change", "error", "message"),
    [
        (
            "conflicts",
            lambda f: f.with_columns(counter_ids=pl.lit([], dtype=pl.List(pl.Int32))),
            ConflictPromptError,
            "counter-object of prompt 0 has no tokens",
        ),
        (
            "conflicts",
            lambda f: f.with_columns(answer_ids=pl.lit([500], dtype=pl.List(pl.Int32))),
            ConflictPromptError,
            "outside the vocabulary of models.gpt2",
        ),
        (
            "conflicts",
            lambda f: f.with_columns(answer_ids=pl.lit([50] * 63, dtype=pl.List(pl.Int32))),
            ConflictPromptError,
            "but the context of models.gpt2 is 64",
        ),
        (
            "conflicts",
            lambda f: f.with_columns(tokens=pl.lit([50] * 62, dtype=pl.List(pl.Int32))),
            ValueError,
            "context",
        ),
        ("statistics", lambda f: f.head(5), ReplacementError, "has 5 of 48 neurons"),
        ("variants", lambda f: f.filter(pl.col("variant") != 3), VariantError, "gaps"),
    ],
)
def test_wrong_tables_are_refused(
    name: str, change: Callable, error: type[ValueError], message: str, made: Callable, tmp_path: Path
) -> None:
    files, spec, _ = made("gpt2")
    rewritten(files, tmp_path, name, change)
    with pytest.raises(error, match=message):
        decode(at(tmp_path), spec, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_nan_replacement_values_are_refused(made: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """B defect 3: a mode that was no number made every output ND; here nothing is decoded."""
    files, spec, _ = made("gpt2")
    original = ActivationStatistics.of_layer

    def spoiled(*args: object) -> ActivationStatistics:
        found = original(*args)
        return replace(found, mode=np.where(np.arange(len(found.mode)) == 11, np.nan, found.mode))

    monkeypatch.setattr(ActivationStatistics, "of_layer", spoiled)
    with pytest.raises(VariantError, match=r"'mode' of neurons \[11\] .*not a number"):
        decode(files, spec, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_a_shard_that_does_not_exist_is_refused(made: Callable, tmp_path: Path) -> None:
    files, spec, _ = made("gpt2")
    with pytest.raises(ConflictPromptError, match="shard 2 of 2"):
        decode(files, spec, tmp_path, 2, 2)


def test_empty_shards_load_no_model(made: Callable, tmp_path: Path) -> None:
    files, _, _ = made("gpt2")
    nowhere = ModelSpec("gone", "directory", path=str(tmp_path / "gone"))
    tables = decode(files, nowhere, tmp_path, 8, 9)
    assert all(len(tables[name]) == 0 for name in TABLES)


WORDS = st.lists(st.sampled_from(["the", "and", "Oslo", "oslo", "a", ".", ",", "\n", " ", "ing"]), max_size=8)


@settings(deadline=None, max_examples=150)
@given(WORDS, st.lists(st.sampled_from(["the", "Oslo", "a"]), min_size=1, max_size=3), WORDS)
def test_a_label_that_is_fixed_does_not_change(first: list[str], object_: list[str], more: list[str]) -> None:
    """Whatever is generated after the point at which generation stops, label and empty answers stay."""
    text = " ".join(object_)
    finished = label_fixed(TOKENIZER, len(object_))
    ids = TOKENIZER.encode(" " + " ".join(first), add_special_tokens=False)
    rest = TOKENIZER.encode(" " + " ".join(more), add_special_tokens=False)
    stop = next((n for n in range(1, len(ids) + 1) if finished(ids[:n])), None)
    if stop is None:
        return
    labels = set()
    for n in range(stop, len(ids) + len(rest) + 1):
        answer, _ = split_answer(continuation_text(TOKENIZER, [*ids, *rest][:n]))
        labels.add((label_answer(answer, text, "and"), label_answer(answer, "and the", text), answer == ""))
    assert len(labels) == 1


def test_an_answer_as_long_as_the_longest_object_goes_on() -> None:
    """'New' of 'New York' may still become 'Newark': only a further word settles it."""
    finished = label_fixed(TOKENIZER, 2)
    assert not finished(TOKENIZER.encode(" New York", add_special_tokens=False))
    assert finished(TOKENIZER.encode(" New York i", add_special_tokens=False))
    assert finished(TOKENIZER.encode(" New.", add_special_tokens=False))
    frame = pl.DataFrame({"counter": ["Rome", "The  Hague"], "answer": ["a b c", "x"]})
    assert longest_object(frame) == 3
    assert longest_object(frame.head(0)) == 0


def test_conflicts_come_in_order(made: Callable) -> None:
    files, _, _ = made("gpt2")
    frame = files.table("conflicts")
    shuffled = Conflicts.of_frame(frame.sample(fraction=1, shuffle=True, seed=3))
    assert shuffled == Conflicts.of_frame(frame)
