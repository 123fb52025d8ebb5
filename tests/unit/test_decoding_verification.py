"""Rule `verify_decoding` on tiny models: what is drawn, what agrees, and that what is wrong does not pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pytest
from conflict_files import NEW_TOKENS, ConflictFiles, write_conflicts
from neuronlab import decoding_verification, naive_comparison
from neuronlab.conflict_tables import TABLES
from neuronlab.decode_conflicts import decode_conflicts
from neuronlab.decoding_sample import draw_pairs
from neuronlab.decoding_verification import DecodingVerificationError, verify_decoding
from neuronlab.model_files import ModelSpec
from neuronlab.models import Model
from neuronlab.tables import read_provenance, read_table, write_table

SHARDS = 2
COMMON = {"pairs": 40, "new_tokens": NEW_TOKENS, "seed": 3}


@dataclass(frozen=True)
class Case:
    files: ConflictFiles
    spec: ModelSpec
    folder: Path  # of the shards' tables

    def paths(self, name: str) -> list[Path]:
        return [self.folder / f"{name}_{shard}.parquet" for shard in range(SHARDS)]

    def decode(self, **options: object) -> Case:
        for shard in range(SHARDS):
            decode_conflicts(
                model=self.spec,
                **self.files.paths,
                **{name: self.paths(name)[shard] for name in (*TABLES, "costs")},
                shard=shard,
                shards=SHARDS,
                new_tokens=NEW_TOKENS,
                seed=3,
                **options,
            )
        return self

    def verify(self, out: Path, *, spec: ModelSpec | None = None, **options: object) -> pl.DataFrame:
        tables = {name: self.paths(name) for name in TABLES}
        verify_decoding(
            model=spec or self.spec, **self.files.paths, **tables, verification=out, **{**COMMON, **options}
        )
        return read_table(out, "decoding_verification")

    def spoiled(self, folder: Path, name: str, change: Callable[[pl.DataFrame], pl.DataFrame]) -> Case:
        """A copy with one kind of table changed."""
        for one in TABLES:
            for path in self.paths(one):
                frame = read_table(path, one)
                write_table(change(frame) if one == name else frame, folder / path.name, one)
        return Case(self.files, self.spec, folder)


@pytest.fixture(scope="module")
def case(
    tiny_model: Callable[..., Model], tiny_directories: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Case]:
    found: dict[tuple[str, str], Case] = {}

    def make(name: str, dtype: str = "float32") -> Case:
        if (name, dtype) not in found:
            folder = tmp_path_factory.mktemp(name)
            files = write_conflicts(folder, tiny_model(name), synthetic=name != "gemma2")
            spec = ModelSpec(name, "directory", path=str(tiny_directories[name]), dtype=dtype, device="cpu")
            found[name, dtype] = Case(files, spec, folder).decode()
        return found[name, dtype]

    return make


@pytest.mark.parametrize("layout", ["gpt2", "llama", "gemma2"])
def test_right_tables_pass(layout: str, case: Callable[..., Case], tmp_path: Path) -> None:
    frame = case(layout).verify(tmp_path / "out.parquet")
    tokens = frame.filter(pl.col("quantity") == "tokens")
    assert len(tokens) == COMMON["pairs"]
    assert frame["passed"].all()
    assert (tokens["fast"] == tokens["brute_force"]).all()
    readout = frame.filter(pl.col("tier") == "readout")
    assert readout["quantity"].n_unique() == 6
    # Far closer than what is granted to float32: a wrong algebra would not hide in the rounding.
    assert granted(frame) > 5e-5
    assert (readout["error"] / (1 + readout["brute_force"].abs())).max() < 5e-6


def granted(frame: pl.DataFrame) -> float:
    """What read-outs are granted beyond absolute + relative |value|."""
    readout = frame.filter(pl.col("tier") == "readout")
    return (readout["tolerance"] - (1e-6 + 1e-5 * readout["brute_force"].abs())).abs().max()


def drawn(case: Case, n: int, seed: int = 3) -> pl.DataFrame:
    return draw_pairs(
        [read_table(path, "decoded") for path in case.paths("decoded")], case.files.table("variants"), n, seed
    )


def test_sample_is_seeded_and_of_every_sort(case: Callable[..., Case]) -> None:
    """Labels that change and that stay, all kinds of sets, doses, several replacements."""
    here = case("gpt2")
    sample = drawn(here, 40)
    assert sample.equals(drawn(here, 40))
    assert not sample.equals(drawn(here, 40, seed=4))
    assert sample.select("prompt", "variant").is_unique().all()
    assert len(sample) == 40
    everything = drawn(here, 10**6)
    decoded = pl.concat([read_table(path, "decoded") for path in here.paths("decoded")])
    assert len(everything) == len(decoded)
    for column in ("change", "kind", "clamped", "replacement"):
        assert set(sample[column]) == set(everything[column])
    assert set(sample["change"]) >= {"label", "nothing"}
    sorts = everything.select("change", "kind", "clamped").unique()
    assert sample.select("change", "kind", "clamped").unique().sort(pl.all()).equals(sorts.sort(pl.all()))
    assert drawn(here, 0).is_empty()


def test_sorts_have_their_share_even_if_rare() -> None:
    """One changed label among thousands of pairs is drawn."""
    n = 500
    variants = pl.DataFrame(
        {"variant": range(n), "kind": ["clean", *["uniform"] * (n - 1)], "replacement": ["none", *["mean"] * (n - 1)]}
    ).with_columns(dose=pl.lit(None, dtype=pl.Float64))
    decoded = pl.DataFrame(
        {"prompt": [p for p in range(10) for _ in range(n)], "variant": [*range(n)] * 10}
    ).with_columns(continuation=pl.lit(0), label=pl.lit("CK"), entropy=pl.lit(1.0))
    odd = (pl.col("prompt") == 7) & (pl.col("variant") == 321)
    decoded = decoded.with_columns(
        label=pl.when(odd).then(pl.lit("ND")).otherwise("label"),
        continuation=pl.when(odd).then(1).otherwise("continuation"),
    )
    for seed in range(5):
        assert drawn_keys(draw_pairs([decoded], variants, 3, seed)) >= {(7, 321)}


def drawn_keys(sample: pl.DataFrame) -> set[tuple[int, int]]:
    return set(sample.select("prompt", "variant").rows())


def other_tokens(frame: pl.DataFrame) -> pl.DataFrame:
    """Every continuation's last token another one."""
    last = (pl.col("tokens").list.get(-1) + 1) % 190
    kept = pl.col("tokens").list.head(pl.col("tokens").list.len() - 1)
    return frame.with_columns(tokens=pl.concat_list(kept, last).cast(pl.List(pl.Int32)))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("continuations", other_tokens, r"two best logits are .* apart, and a tie is 0.0001 at most"),
        (
            "continuations",
            lambda f: f.with_columns(tokens=pl.col("tokens").list.head(1)),
            "after 1 tokens one ends and the other goes on",
        ),
        ("decoded", lambda f: f.with_columns(entropy=pl.col("entropy") + 1e-3), "entropy is .* by brute force"),
        ("states", lambda f: f.with_columns(log_prob_ck=pl.col("log_prob_ck") - 0.01), "log_prob_ck is "),
        ("states", lambda f: f.with_columns(object_log_prob_pk=pl.col("log_prob_pk") - 9), "object_log_prob_pk is "),
        ("states", lambda f: f.with_columns(nd_token=(pl.col("nd_token") + 1) % 190), "log_prob_nd is "),
    ],
)
def test_wrong_tables_do_not_pass(
    name: str, change: Callable, message: str, case: Callable[..., Case], tmp_path: Path
) -> None:
    wrong = case("gpt_neox").spoiled(tmp_path, name, change)
    with pytest.raises(DecodingVerificationError, match=message):
        wrong.verify(tmp_path / "out.parquet", pairs=12)
    assert not (tmp_path / "out.parquet").exists()


def test_one_wrong_choice_does_not_pass(case: Callable[..., Case], tmp_path: Path) -> None:
    """Variants that keep the clean continuation where naive generation leaves it."""
    wrong = case("gpt2").spoiled(tmp_path, "decoded", lambda f: f.with_columns(continuation=pl.lit(0, pl.Int32)))
    with pytest.raises(DecodingVerificationError, match="naive generation"):
        wrong.verify(tmp_path / "out.parquet", pairs=120)


def test_near_ties_may_part(case: Callable[..., Case], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where the two best logits are nearer than the tolerance, another token passes, is counted, and shows its gap."""
    wrong = case("gpt_neox").spoiled(tmp_path, "continuations", other_tokens)
    frame = wrong.verify(tmp_path / "out.parquet", tie=100.0)
    tokens = frame.filter(pl.col("quantity") == "tokens")
    assert frame["passed"].all()
    assert (tokens["brute_force"] == tokens["fast"] - 1).all()
    assert (tokens["error"] > 1e-4).all()
    assert f"{COMMON['pairs']} part, {COMMON['pairs']} of them at a tie" in capsys.readouterr().err


def test_synthetic_controls_of_another_seed_do_not_pass(case: Callable[..., Case], tmp_path: Path) -> None:
    with pytest.raises(DecodingVerificationError, match="naive generation"):
        case("llama").verify(tmp_path / "out.parquet", seed=4, pairs=120)


def test_without_memory_only_readouts_are_left_loudly(
    case: Callable[..., Case], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.parquet"
    frame = case("gpt2").verify(out, float64_mb=0.1)
    assert frame["tier"].unique().to_list() == ["readout"]
    assert "does not fit twice into 0.1 MB" in capsys.readouterr().err
    assert read_provenance(out)["verified_in"] == "float32"


def test_half_precision_is_verified_by_decoding_anew_in_float64(
    case: Callable[..., Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bfloat16 model's own near-ties are no defects; its tree in float64 must be exact."""
    here, out = case("gpt2", "bfloat16"), tmp_path / "out.parquet"
    frame = here.verify(out, pairs=12)
    assert frame["passed"].all()
    assert read_provenance(out)["rounding"] == 0
    assert set(frame["tier"]) == {"generation", "readout"}
    assert granted(frame) == 0
    original = naive_comparison.conflict_tables

    def wrong(*args: object, **options: object) -> object:
        tables, costs = original(*args, **options)
        return tables | {"continuations": other_tokens(tables["continuations"])}, costs

    monkeypatch.setattr(naive_comparison, "conflict_tables", wrong)
    with pytest.raises(DecodingVerificationError, match="two best logits"):
        here.verify(tmp_path / "wrong.parquet", pairs=12)


def test_float64_model_needs_no_copy(
    case: Callable[..., Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(model: Model) -> Model:
        raise AssertionError("loaded twice")

    monkeypatch.setattr(decoding_verification, "precise_copy", refuse)
    here = case("gpt2", "float64")
    frame = here.verify(tmp_path / "out.parquet", pairs=10, float64_mb=0.1)
    assert granted(frame) == 0
    assert "generation" in set(frame["tier"])


@pytest.mark.parametrize("pairs", [0, 5])
def test_nothing_to_verify_gives_an_empty_table(
    pairs: int, case: Callable[..., Case], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here = case("gpt2")
    if pairs:
        for name in TABLES:
            for path in here.paths(name):
                write_table(read_table(path, name).head(0), tmp_path / path.name, name)
        here = Case(here.files, here.spec, tmp_path)
    assert here.verify(tmp_path / "out.parquet", pairs=pairs).is_empty()
    assert "nothing to verify" in capsys.readouterr().err


def test_nan_does_not_pass() -> None:
    run = naive_comparison.Naive(*[None] * 3, 1, 1, 0)
    pair = naive_comparison.Pair(0, 0, None, 0, (1,), {"entropy": 1.0}, None)
    object.__setattr__(run, "_values", lambda pair: {"entropy": float("nan")})
    frame = run.compared([pair], 1e-4, 1e-6, 1e-5, 0.0, generation=False)
    assert frame["passed"].to_list() == [False]
