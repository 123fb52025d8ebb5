"""The shipped demo model, its files, and that training is deterministic."""

import hashlib
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from neuronlab.demo import evaluation, neuron_effects, tokenizer, training
from neuronlab.demo.world_files import CHECKPOINTS, facts, write_world
from transformers import AutoModelForCausalLM, AutoTokenizer

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(CHECKPOINTS / "final", dtype=torch.float32).eval()


def digest(directory: Path) -> dict[str, str]:
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def test_training_twice_gives_the_same_bytes_and_another_seed_does_not(tmp_path):
    for name, seed in (("one", 3), ("two", 3), ("three", 4)):
        training.train(seed, tmp_path / name, steps=3, checkpoint_steps=(2,))
    one, two, three = (digest(tmp_path / name) for name in ("one", "two", "three"))
    assert one == two
    assert one["final/model.safetensors"] != three["final/model.safetensors"]
    assert {"final/config.json", "final/tokenizer.json", "step_000002/model.safetensors", "token_counts.npy"} <= set(
        one
    )
    assert np.load(tmp_path / "one/token_counts.npy").sum() == 3 * training.BATCH * (training.SEQUENCE - 1)
    assert not list(tmp_path.rglob(".*"))


def test_learning_rate_warms_up_stays_and_falls():
    rates = [training.learning_rate(step, 1000) for step in range(1000)]
    assert rates[99] == rates[600] == max(rates) == training.LEARNING_RATE
    assert rates[0] < 0.02 * max(rates)
    assert rates[-1] < 0.03 * max(rates)


def test_shipped_tokenizer_is_the_built_one_and_knows_bos():
    shipped = AutoTokenizer.from_pretrained(CHECKPOINTS / "final")
    assert shipped.bos_token == tokenizer.BOS
    assert shipped.bos_token_id == tokenizer.BOS_ID
    assert shipped.get_vocab() == tokenizer.build_tokenizer().get_vocab()
    for text in facts()["statement"][:200]:
        ids = shipped(text)["input_ids"]
        assert ids == tokenizer.build_tokenizer().encode(text).ids
        assert shipped.decode(ids) == text


def test_shipped_checkpoints_load_are_small_and_get_better():
    directories = sorted(CHECKPOINTS.glob("step_*"))
    assert len(directories) == 8
    assert sum(path.stat().st_size for path in CHECKPOINTS.rglob("*")) < 20e6
    batch = torch.from_numpy(training.training_batch(tokenizer.build_sampler(), 77, 0)[:4])
    losses = []
    for directory in [directories[0], directories[4], CHECKPOINTS / "final"]:
        loaded = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
        assert loaded.config.vocab_size == tokenizer.build_tokenizer().get_vocab_size()
        with torch.no_grad():
            losses.append(loaded(batch, labels=batch).loss.item())
    assert losses[0] > losses[1] > losses[2]


def test_shipped_model_completes_facts(model):
    table = facts().sample(60, seed=1)
    with torch.no_grad():
        answers = evaluation.complete(model, table["query"].to_list())
    assert np.mean([a == t for a, t in zip(answers, table["object"], strict=True)]) > 0.95


def test_shipped_model_copies_random_tokens(model):
    with torch.no_grad():
        model.set_attn_implementation("eager")
        rows = {name: value for _, name, value, _, _ in evaluation.induction(model, "evaluation_b")}
    assert rows["best head's induction score"] > 0.6
    assert rows["second copy's loss / first's"] < 0.25


def test_folded_readout_gives_the_models_log_probabilities(model):
    parts = neuron_effects.readout(model)
    tokens = torch.from_numpy(training.training_batch(tokenizer.build_sampler(), 78, 0)[:1])
    with torch.no_grad():
        residual, activation = neuron_effects._last_layer(model, tokens)
        residual = residual - residual.mean(1, keepdim=True)
        scale = (residual.square().mean(1, keepdim=True) + parts.epsilon).sqrt()
        logits = residual / scale @ parts.unembedding + parts.bias
        torch.testing.assert_close(logits.log_softmax(-1), model(tokens).logits[0].log_softmax(-1), atol=2e-4, rtol=0)
    assert activation.shape == (training.SEQUENCE, model.config.intermediate_size)


def test_rotations_bound_the_null_space_share_of_random_weights(model):
    parts = neuron_effects.readout(model)
    random = torch.randn(200, 128, generator=torch.Generator().manual_seed(2))
    shuffled = neuron_effects.Readout(
        parts.unembedding, parts.bias, parts.epsilon, random - random.mean(1, keepdim=True)
    )
    rho, chance, _ = neuron_effects.null_space_share(shuffled, k=6)
    assert rho.max() <= chance < 0.7
    # sqrt((k - 1) / (d - 1)): one of the k directions is the all-ones direction, which centred weights do not have.
    assert abs(rho.square().mean() - 5 / 127) < 0.01


def test_world_files_have_the_promised_columns_and_counts(tmp_path):
    paths = [tmp_path / name for name in ("documents.parquet", "facts.parquet", "counts.parquet")]
    write_world(*paths)
    documents, table, counts = (pl.read_parquet(path) for path in paths)
    assert documents.schema == {"document": pl.Int64, "split": pl.String, "text": pl.String}
    assert documents["document"].is_unique().all()
    assert documents["text"].is_unique().all()
    assert documents["split"].value_counts().sort("split").rows() == [("evaluation_a", 300), ("evaluation_b", 300)]
    assert table.height == 1500
    assert table.select("subject", "relation").is_unique().all()
    assert table.filter(pl.col("query") + " " + pl.col("object") + "." != pl.col("statement")).is_empty()
    assert table["contradicted_in_training"].sum() == 1275
    assert counts["token_id"].to_list() == list(range(tokenizer.build_tokenizer().get_vocab_size()))
    assert (counts["count"][2:] > 1000).all()
    assert counts["count"][:2].sum() == 0
