"""Conflict prompts: end to end on tiny models, and each step's own rule."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from neuronlab.conflicts import ConflictError, draw, fits, make_conflicts
from neuronlab.model_files import ModelSpec
from neuronlab.prompt_templates import TemplateError
from neuronlab.schemas import SCHEMAS
from neuronlab.tables import read_table, write_table

FILTERS = ("containment", "similarity", "overlap")
PATTERN = "{query} {counter}. {query}"
# relation, subject, query, answer, dropped by
ROWS = (
    ("home", "Ann", "Ann is in", "Rome", None),
    ("home", "Ben", "Ben is in", "rome", None),
    ("home", "Cid", "Cid is in", "The Hague", None),
    ("home", "Dan", "Dan is in", "Oslo", "overlap"),
    ("home", "Eve", "Eve is in", "Lima", None),
    ("food", "Ann", "Ann eats the", "thing", None),
    ("food", "Ben", "Ben eats the", "and", None),
    ("food", "Cid", "Cid eats the", "", "empty"),
)
TABLES = ("counters", "conflicts", "funnel", "statistics")
SCHEMA = {name: name for name in TABLES} | {"statistics": "activation_statistics"}


def write_tables(folder: Path, rows: tuple = ROWS) -> None:
    """The inputs of the rule, as the rules before it write them."""
    n = len(rows)
    relation, subject, query, answer, dropped = (list(column) for column in zip(*rows, strict=True))
    fact = list(range(n))
    facts = {
        "fact": fact, "subject": subject, "relation": relation, "relation_group": relation, "phrase": ["is"] * n,
        "object": answer, "query": query, "statement": query, "subset": [None] * n,
    }  # fmt: skip
    names = sorted(set(relation))
    relations = {"relation": names, "relation_group": names, "n_facts": [relation.count(name) for name in names]}
    relations |= {
        name: [None] * len(names) for name in ("description", "example_query", "example_subject", "example_object")
    }
    answers = {
        "fact": fact, "text": query, "continuation": answer, "answer": answer, "ended": ["delimiter"] * n,
        "n_tokens": [1] * n, "first_token": [3] * n, "log_prob": [-1.0] * n, "entropy": [1.0] * n,
        "correct": [True] * n,
    }  # fmt: skip
    no = [False] * n
    filtered = {
        "fact": fact, "answer": answer, "empty": no, "containment": no, "similarity": [0.0] * n, "similar": no,
        "example": no, "overlap": no, "lonely": no, "dropped_by": dropped,
    }  # fmt: skip
    for name, columns in (("facts", facts), ("relations", relations), ("answers", answers), ("filtered", filtered)):
        schema = {column: spec.dtype for column, spec in SCHEMAS[name].items()}
        write_table(pl.DataFrame(columns, schema=schema), folder / f"{name}.parquet", name)


def run(folder: Path, directory: Path, **options: object) -> dict[str, pl.DataFrame]:
    paths = {name: folder / f"{name}.parquet" for name in ("facts", "relations", "answers", "filtered", *TABLES)}
    make_conflicts(
        model=ModelSpec("tiny", "directory", path=str(directory), device="cpu"),
        **paths,
        **{
            "filters": FILTERS, "conflict": PATTERN, "counters_per_fact": 2, "counters_by": "first_token",
            "bos": "auto", "new_tokens": 4, "max_prompts": None, "histogram_bins": 8, "batch_size": 3, "seed": 1,
        } | options,
    )  # fmt: skip
    return {name: read_table(paths[name], SCHEMA[name]) for name in TABLES}


@pytest.mark.parametrize("name", ["gpt2", "qwen2"])
def test_prompts_end_to_end(name: str, tiny_directories: dict, tiny_model: object, tmp_path: Path) -> None:
    write_tables(tmp_path)
    found = run(tmp_path, tiny_directories[name])
    conflicts, counters = found["conflicts"], found["counters"]
    model = tiny_model(name)
    bos = [] if model.bos_token_id is None else [model.bos_token_id]
    assert conflicts["prompt"].to_list() == list(range(len(conflicts)))
    assert conflicts.select("fact", "counter").equals(counters.select("fact", "counter"))
    assert counters.select(pl.struct("fact", "place").is_sorted()).item()
    possible = {0: {"The Hague", "Lima"}, 1: {"The Hague", "Lima"}, 4: {"Rome", "The Hague"}, 5: {"and"}, 6: {"thing"}}
    assert {f: set(c) for f, c in conflicts.group_by("fact").agg("counter").iter_rows() if f != 2} == possible
    assert set(conflicts.filter(fact=2)["counter"]) == {"Rome", "Lima"}
    for row in conflicts.iter_rows(named=True):
        relation, _, query, answer, _ = ROWS[row["fact"]]
        assert (row["relation"], row["answer"]) == (relation, answer)
        assert row["text"] == f"{query} {row['counter']}. {query}"  # with the model's own capitals
        assert row["tokens"] == bos + model.tokenizer(row["text"], add_special_tokens=False)["input_ids"]
        for ids, object_ in ((row["counter_ids"], row["counter"]), (row["answer_ids"], answer)):
            assert model.tokenizer.decode(row["tokens"][len(bos) :] + ids) == f"{row['text']} {object_}"
    statistics = found["statistics"]
    assert statistics["n_tokens"].unique().to_list() == [(conflicts["tokens"].list.len() - len(bos)).sum()]
    assert statistics["layer"].unique().to_list() == [model.n_layers - 1]


def test_funnel_counts_every_step(tiny_directories: dict, tmp_path: Path) -> None:
    write_tables(tmp_path)
    funnel = run(tmp_path, tiny_directories["gpt2"], max_prompts=5)["funnel"]
    assert funnel["order"].to_list() == list(range(len(funnel)))
    counts = dict(zip(funnel["step"], funnel.select("n_facts", "n_relations", "n_prompts").rows(), strict=True))
    assert counts["facts"] == (8, 2, None)
    assert counts["answered"] == (7, 2, None)
    assert counts["overlap"] == counts["counter-objects"] == (6, 2, None)
    assert counts["counters"] == counts["context"] == (6, 2, 10)
    assert counts["drawn"][2] == 5
    assert list(counts)[-3:] == ["counters", "context", "drawn"]


def test_b_defect_8_small_relations_give_fewer_prompts_and_say_so(
    tiny_directories: dict, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tables(tmp_path)
    found = run(tmp_path, tiny_directories["gpt2"], counters_per_fact=3)
    per_fact = dict(found["counters"].group_by("fact").len().iter_rows())
    assert per_fact == {0: 2, 1: 2, 2: 2, 4: 2, 5: 1, 6: 1}
    log = capsys.readouterr().err
    assert "6 facts have fewer than 3 counter-objects" in log
    alike = [a[0] == b[0] for a, b in found["conflicts"].select("counter_ids", "answer_ids").iter_rows()]
    assert 0 < sum(alike) < len(alike)
    assert f"in {sum(alike)} prompts counter-object and answer begin with the same token" in log


def test_same_input_same_bytes_and_batches_change_nothing(tiny_directories: dict, tmp_path: Path) -> None:
    write_tables(tmp_path)
    contents, choices = [], []
    for batch_size in (3, 3, 64):
        choices.append(run(tmp_path, tiny_directories["llama"], batch_size=batch_size, max_prompts=6))
        contents.append([(tmp_path / f"{name}.parquet").read_bytes() for name in TABLES])
    assert contents[0] == contents[1]
    assert choices[0]["conflicts"].equals(choices[2]["conflicts"])


def test_prompts_too_long_for_the_context_are_dropped_and_counted(tiny_directories: dict, tmp_path: Path) -> None:
    long = ("home", "Zoe", "Zoe, who sings and dances, lives in", "Rome", None)  # too long as soon as it stands twice
    write_tables(tmp_path, (*ROWS, long))
    found = run(tmp_path, tiny_directories["gpt2"])
    assert len(ROWS) not in found["conflicts"]["fact"].to_list()
    assert len(ROWS) in found["counters"]["fact"].to_list()
    counts = dict(found["funnel"].select("step", "n_prompts").iter_rows())
    assert (counts["counters"], counts["context"]) == (12, 10)


def test_nothing_left_names_the_step(tiny_directories: dict, tmp_path: Path) -> None:
    write_tables(tmp_path)
    with pytest.raises(ConflictError, match=r"after the step 'context' .*counters: 6; context: 0.*new_tokens"):
        run(tmp_path, tiny_directories["gpt2"], new_tokens=60)
    write_tables(tmp_path, tuple((*row[:4], row[4] or "overlap") for row in ROWS))
    with pytest.raises(ConflictError, match=r"after the step 'overlap'.*overlap: 0"):
        run(tmp_path, tiny_directories["gpt2"])
    write_tables(tmp_path, (("r", "Ann", "Ann is", "New York", None), ("r", "Ben", "Ben is", "new york", None)))
    with pytest.raises(ConflictError, match="after the step 'counters'"):
        run(tmp_path, tiny_directories["gpt2"])
    assert not any((tmp_path / f"{name}.parquet").exists() for name in TABLES)


def test_bad_patterns_and_foreign_tables_are_refused(tiny_directories: dict, tmp_path: Path) -> None:
    write_tables(tmp_path)
    with pytest.raises(TemplateError, match=r"context_copying\.conflict: .*must end in"):
        run(tmp_path, tiny_directories["gpt2"], conflict="{query} {counter}.")
    short = read_table(tmp_path / "answers.parquet", "answers").head(3)
    write_table(short, tmp_path / "answers.parquet", "answers")
    with pytest.raises(ConflictError, match="do not fit together"):
        run(tmp_path, tiny_directories["gpt2"])


def frame(n: int) -> pl.DataFrame:
    columns = {
        "prompt": list(range(n)), "fact": [i // 2 for i in range(n)], "relation": ["r"] * n, "subset": [None] * n,
        "counter": ["c"] * n, "answer": ["a"] * n, "text": [str(i) for i in range(n)],
        "tokens": [[0] * i for i in range(n)],
        "counter_ids": [[1]] * n, "answer_ids": [[2, 3]] * n,
    }  # fmt: skip
    return pl.DataFrame(columns, schema={name: spec.dtype for name, spec in SCHEMAS["conflicts"].items()})


@settings(deadline=None)
@given(st.integers(0, 20), st.integers(1, 25), st.integers(0, 5))
def test_draws_keep_the_order_and_depend_on_the_seed_alone(n: int, wanted: int, seed: int) -> None:
    made = frame(n)
    drawn = draw(made, wanted, seed)
    assert len(drawn) == min(n, wanted)
    assert drawn["prompt"].to_list() == list(range(len(drawn)))
    chosen = [int(text) for text in drawn["text"]]
    assert chosen == sorted(set(chosen))
    assert drawn.equals(draw(made, wanted, seed))
    assert draw(made, None, seed).equals(made)


def test_other_seeds_draw_other_prompts() -> None:
    assert len({tuple(draw(frame(20), 5, seed)["text"]) for seed in range(6)}) > 3


@pytest.mark.parametrize(("n_ctx", "new_tokens", "kept"), [(None, 9, 8), (7, 3, 6), (7, 1, 7), (1, 10, 0)])
def test_room_for_continuation_and_objects(n_ctx: int | None, new_tokens: int, kept: int) -> None:
    """Prompts of 0 to 7 tokens, objects of up to two; the last token is never fed to the model."""
    assert len(frame(8).filter(fits(n_ctx, new_tokens))) == kept
