"""Parametric answers against naive greedy generation, one prompt at a time."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from neuronlab import answers, greedy_decoding
from neuronlab.answers import answer_queries
from neuronlab.greedy_decoding import Greedy
from neuronlab.model_files import ModelSpec
from neuronlab.prompt_templates import TemplateError
from neuronlab.prompt_tokens import PromptError
from neuronlab.schemas import SCHEMAS
from neuronlab.tables import read_table, write_table

NEW_TOKENS = 6
ENDS = re.compile(r'["\n.,(\[\]<]|\\n')


def write_facts(folder: Path, queries: list[str], objects: list[str] | None = None) -> None:
    """A knowledge base of one relation, subjects being the queries' first words."""
    n = len(queries)
    facts = pl.DataFrame(
        {
            "fact": range(n),
            "subject": [query.split()[0] for query in queries],
            "relation": ["r"] * n,
            "relation_group": ["g"] * n,
            "phrase": ["is"] * n,
            "object": objects or ["Rome"] * n,
            "query": queries,
            "statement": queries,
            "subset": [None] * n,
        }
    )
    relation = {"relation": "r", "relation_group": "g", "n_facts": n, "description": "a town"}
    schema = {name: column.dtype for name, column in SCHEMAS["relations"].items()}
    write_table(facts, folder / "facts.parquet", "facts")
    write_table(pl.DataFrame([relation], schema=schema), folder / "relations.parquet", "relations")


def run(folder: Path, spec: ModelSpec, **options: object) -> pl.DataFrame:
    answer_queries(
        model=spec,
        facts=folder / "facts.parquet",
        relations=folder / "relations.parquet",
        answers=folder / "answers.parquet",
        **{"template": "none", "bos": "auto", "new_tokens": NEW_TOKENS, "batch_size": 3} | options,
    )
    return read_table(folder / "answers.parquet", "answers")


def tiny_spec(directories: dict[str, Path], name: str, dtype: str = "float64") -> ModelSpec:
    return ModelSpec("tiny", "directory", path=str(directories[name]), dtype=dtype, device="cpu")


QUERIES = ["Ann is in", "the Band lives in the land of", "x", "Ben and the thing and", "Zoe (the second) sings in"]


@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen2"])
def test_answers_equal_naive_generation(
    name: str, tiny_directories: dict, tiny_model: Callable, tmp_path: Path
) -> None:
    model = tiny_model(name, "float64")
    write_facts(tmp_path, QUERIES)
    found = run(tmp_path, tiny_spec(tiny_directories, name))
    assert found["text"].to_list() == QUERIES
    for row in found.iter_rows(named=True):
        ids = model.tokenizer(row["text"], add_special_tokens=False)["input_ids"]
        start = ([] if model.bos_token_id is None else [model.bos_token_id]) + ids
        tokens, log_prob, entropy, ended = list(start), 0.0, None, "length"
        while ended == "length" and len(tokens) < len(start) + NEW_TOKENS:
            lp = torch.log_softmax(model.logits(torch.tensor([tokens]))[0, -1].double(), -1)
            entropy = float(-(lp.exp() * lp).sum()) if entropy is None else entropy
            tokens.append(int(lp.argmax()))
            log_prob += float(lp.max())
            text = model.tokenizer.decode(tokens[len(start) :])
            if ENDS.search(text):
                ended = "eos" if tokens[-1] == model.eos_token_id else "delimiter"
        assert (row["n_tokens"], row["first_token"]) == (len(tokens) - len(start), tokens[len(start)])
        assert row["ended"] == ended
        assert row["log_prob"] == pytest.approx(log_prob, abs=1e-9)
        assert row["entropy"] == pytest.approx(entropy, abs=1e-9)
        whole = model.tokenizer.decode([token for token in tokens[len(start) :] if token != model.eos_token_id])
        assert row["continuation"] == whole
        assert row["answer"] == ENDS.split(whole)[0].split("\ufffd")[0].strip()


def test_batch_size_changes_no_answer(tiny_directories: dict, tmp_path: Path) -> None:
    write_facts(tmp_path, QUERIES)
    one, many = (run(tmp_path, tiny_spec(tiny_directories, "gpt_neox"), batch_size=n) for n in (1, 16))
    assert one.drop("log_prob", "entropy").equals(many.drop("log_prob", "entropy"))
    np.testing.assert_allclose(one["log_prob"], many["log_prob"], rtol=0, atol=1e-9)


def test_read_outs_too_large_for_float64_answer_the_same(
    tiny_directories: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_facts(tmp_path, QUERIES)
    precise = run(tmp_path, tiny_spec(tiny_directories, "llama", "float32"))
    monkeypatch.setattr(greedy_decoding, "readout_dtype", lambda d, vocab: torch.float32)
    found = run(tmp_path, tiny_spec(tiny_directories, "llama", "float32"))
    assert found.drop("log_prob", "entropy").equals(precise.drop("log_prob", "entropy"))
    np.testing.assert_allclose(found["log_prob"], precise["log_prob"], rtol=0, atol=1e-4)
    assert not found["log_prob"].equals(precise["log_prob"])


def test_the_demo_knows_its_facts(tmp_path: Path) -> None:
    from neuronlab.demo.world_files import facts

    some = facts().gather_every(50)
    write_facts(tmp_path, some["query"].to_list(), some["object"].to_list())
    found = run(tmp_path, ModelSpec("demo", "demo", device="cpu"), new_tokens=10, batch_size=16)
    assert len(found) == 30
    assert found["correct"].all()
    assert found["answer"].to_list() == some["object"].to_list()
    assert (found["ended"] == "delimiter").all()


def test_answers_keep_their_case_and_count_as_correct_whatever_it_is(
    tiny_directories: dict, tiny_model: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_facts(tmp_path, ["a", "b", "c", "d"], ["rome", "Rome", "Rom", "ROME"])
    encode = tiny_model("gpt2").tokenizer
    said = [" Rome.", " ROME", " Rome,", "\n Rome"]

    def greedy(model: object, last: object, prompts: list, **options: object) -> list[Greedy]:
        assert [prompt[0] for prompt in prompts] == [model.bos_token_id] * 4
        ids = [tuple(encode(text, add_special_tokens=False)["input_ids"]) for text in said]
        ids[1] = (*ids[1], model.eos_token_id)
        return [Greedy(tokens, (-1.0,) * len(tokens), 0.5) for tokens in ids]

    monkeypatch.setattr(answers, "greedy", greedy)
    found = run(tmp_path, tiny_spec(tiny_directories, "gpt2"))
    assert found["answer"].to_list() == ["Rome", "ROME", "Rome", ""]
    assert found["correct"].to_list() == [True, True, False, False]
    assert found["ended"].to_list() == ["delimiter", "eos", "delimiter", "delimiter"]
    assert found["continuation"].to_list() == said
    assert found["log_prob"].to_list() == [-float(n) for n in found["n_tokens"]]


def test_a_model_that_answers_nothing_is_written_down_loudly(
    tiny_directories: dict, tiny_model: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: object
) -> None:
    write_facts(tmp_path, QUERIES)
    (newline,) = tiny_model("gpt2").tokenizer("\n", add_special_tokens=False)["input_ids"]
    monkeypatch.setattr(answers, "greedy", lambda *a, **b: [Greedy((newline,), (-0.1,), 0.2)] * len(QUERIES))
    found = run(tmp_path, tiny_spec(tiny_directories, "gpt2"))
    assert found["answer"].to_list() == [""] * len(QUERIES)
    assert not found["correct"].any()
    assert "the model answers nothing" in capsys.readouterr().err


def test_prompts_longer_than_the_context_are_refused_by_name(tiny_directories: dict, tmp_path: Path) -> None:
    write_facts(tmp_path, ["Ann is in", f"Ben is {'x' * 60}", "Zoe"])
    with pytest.raises(PromptError, match=r"1 of 3 .*fact 1 \('Ben', 'r'\) has 68 tokens.*64 leaves room for 59"):
        run(tmp_path, tiny_spec(tiny_directories, "gpt2"))
    write_facts(tmp_path, ["x" * 58])  # BOS, 58 bytes and 6 new tokens, the last of which is never fed back
    assert len(run(tmp_path, tiny_spec(tiny_directories, "gpt2"))) == 1


def test_configuration_that_does_not_fit_is_refused(tiny_directories: dict, tmp_path: Path) -> None:
    write_facts(tmp_path, QUERIES)
    with pytest.raises(PromptError, match="no BOS; use auto or never"):
        run(tmp_path, tiny_spec(tiny_directories, "qwen2"), bos="always")
    with pytest.raises(TemplateError, match=r"context_copying\.template: 'plian' is no template"):
        run(tmp_path, tiny_spec(tiny_directories, "qwen2"), template="plian")
    assert not (tmp_path / "answers.parquet").exists()


def test_same_input_same_bytes(tiny_directories: dict, tmp_path: Path) -> None:
    write_facts(tmp_path, QUERIES)
    contents = []
    for _ in range(2):
        run(tmp_path, tiny_spec(tiny_directories, "phi", "float32"), template="{description}: {query}")
        contents.append((tmp_path / "answers.parquet").read_bytes())
    assert contents[0] == contents[1]
