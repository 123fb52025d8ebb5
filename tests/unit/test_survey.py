"""A survey in one job against the study's rules on the same tokens, brute force, and rules checked by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from neuronlab.ablation_shards import ablate_neurons
from neuronlab.activations import measure_activations
from neuronlab.attention import AttentionError
from neuronlab.documents import TextSpec
from neuronlab.effects import summarize_effects
from neuronlab.final_states import AblationInputs
from neuronlab.frequencies import CountsError, count_tokens
from neuronlab.frequency_cosine import measure_frequency_cosine
from neuronlab.induction_heads import draw_random
from neuronlab.model_files import ModelSpec
from neuronlab.models import Model, load_model
from neuronlab.null_space_size import NullSpaceError
from neuronlab.replacements import ReplacementError
from neuronlab.survey import survey_model
from neuronlab.survey_summary import Sums, audible, beyond_chance, entropy_neurons, summary_frame
from neuronlab.tables import read_table
from neuronlab.texts import tokenize_text
from neuronlab.weights import measure_neurons
from transformers import AutoModelForCausalLM

TABLES = ("neurons", "summary", "spectrum")
ARCHITECTURES = ("gpt_neox", "gemma2", "qwen2")
OPTIONS = {
    "sequences": 5,
    "null_space_k": [6, 0.5],
    "heads_length": 12,
    "heads_sequences": 6,
    "seed": 4,
    "te_floor": 1e-6,
}


@dataclass(frozen=True)
class World:
    """A model, a text of some documents and the text's configuration."""

    folder: Path
    spec: ModelSpec
    text: TextSpec
    documents: Path

    def survey(self, name: str = "survey", **options: object) -> dict[str, pl.DataFrame]:
        paths = {table: self.folder / name / f"{table}.parquet" for table in TABLES}
        given = {"model": self.spec, "text": self.text, "documents": self.documents, "count_source": [], **OPTIONS}
        survey_model(**(given | options), **paths)
        return {table: read_table(path, f"survey_{table}") for table, path in paths.items()}


def make_world(folder: Path, directory: Path) -> World:
    generator = np.random.default_rng(0)
    words = ["the", "he", "hand", "being", "in", "an", "ring", "and", "there", "then", "thing", "~", "sand"]
    texts = [" ".join(generator.choice(words, 30)) for _ in range(12)]
    documents = folder / "documents.txt"
    documents.write_text("\n\n".join(texts))
    text = TextSpec("tiny", path=str(documents), sequence_length=32, sequences=99, include_padded=False)
    return World(folder, ModelSpec("tiny", "directory", path=str(directory), device="cpu"), text, documents)


@pytest.fixture(scope="module", params=ARCHITECTURES)
def world(request: pytest.FixtureRequest, tiny_directories: dict, tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp(request.param), tiny_directories[request.param])


@pytest.fixture(scope="module")
def neox(tiny_directories: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("neox"), tiny_directories["gpt_neox"])


@pytest.fixture(scope="module")
def survey(world: World) -> dict[str, pl.DataFrame]:
    return world.survey()


@pytest.fixture(scope="module")
def rules(world: World) -> dict[str, pl.DataFrame]:
    """The tables of the study's own rules on the same five sequences."""
    path = {
        name: world.folder / f"{name}.parquet"
        for name in (
            "tokens",
            "counts",
            "statistics",
            "baseline",
            "effects",
            "weights",
            "null",
            "sv",
            "cosine",
            "a",
            "b",
        )
    }
    five = TextSpec(**{**world.text.__dict__, "sequences": 5})
    tokenize_text(documents=world.documents, output=path["tokens"], model=world.spec, text=five, seed=4)
    count_tokens(documents=world.documents, counts=None, output=path["counts"], model=world.spec, text=world.text)
    measure_neurons(
        model=world.spec,
        null_space_k=[6],
        include_padded=False,
        neurons_per_tile=4096,
        seed=0,
        neurons=path["weights"],
        null_space=path["null"],
        singular_values=path["sv"],
    )
    measure_frequency_cosine(model=world.spec, counts=path["counts"], output=path["cosine"])
    common = {"model": world.spec, "tokens": path["tokens"], "counts": path["counts"], "statistics": path["statistics"]}
    measure_activations(**common, baseline=path["baseline"])
    for i, shard in enumerate("ab"):
        inputs = AblationInputs(**common, tokens_per_chunk=7)
        ablate_neurons(inputs=inputs, output=path[shard], shard=i, shards=2)
    summarize_effects(shards=[path["a"], path["b"]], effects=path["effects"], te_floor=1e-6)
    names = {
        "tokens": "tokens",
        "baseline": "baseline",
        "effects": "effects",
        "weights": "neurons",
        "null": "null_space",
        "sv": "singular_values",
        "cosine": "frequency_cosine",
    }
    return {key: read_table(path[key], name) for key, name in names.items()}


def last(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.filter(pl.col("layer") == pl.col("layer").max()).sort("neuron")


def close(ours: pl.Series, theirs: pl.Series, **tolerance: float) -> None:
    assert ours.null_count() == theirs.null_count()
    np.testing.assert_allclose(ours.cast(pl.Float64), theirs.cast(pl.Float64), **tolerance)


def test_weights_are_those_of_measure_neurons(survey: dict, rules: dict) -> None:
    ours, theirs = survey["neurons"], last(rules["weights"])
    assert ours.select("layer", "neuron").equals(theirs.select("layer", "neuron"))
    for name in ("norm", "logit_var", "unembed_gain"):
        close(ours[name], theirs[name], rtol=1e-9)
    null = last(rules["null"].filter((pl.col("k") == 6) & (pl.col("k_rule") == "configured")))
    close(ours["rho"], null["rho"], rtol=1e-9)
    close(ours["rho_p_value"], null["rho_p_value"], rtol=1e-9, atol=1e-12)
    close(ours["frequency_cosine"], last(rules["cosine"])["cosine"], rtol=1e-9, atol=1e-12)
    close(survey["spectrum"]["singular_value"], rules["sv"].sort("index")["singular_value"], rtol=1e-12)


def test_effects_are_those_of_the_shards(survey: dict, rules: dict) -> None:
    ours, theirs = survey["neurons"], last(rules["effects"])
    for name in ("te_loss", "te_entropy", "te_kl"):
        close(ours[name], theirs[name], rtol=1e-5, atol=1e-8)
    for name in ("m_loss", "m_entropy", "m_freq_loss"):
        close(ours[name], theirs[name], atol=1e-4)


def test_clean_outcomes_are_those_of_the_baseline(survey: dict, rules: dict) -> None:
    baseline = rules["baseline"]
    rows = {row["quantity"]: row for row in survey["summary"].to_dicts()}
    expected = {
        "loss": baseline["loss"].mean(),
        "entropy": baseline["entropy"].mean(),
        "accuracy": (baseline["prediction"] == baseline["next_token"]).mean(),
    }
    for name, value in expected.items():
        assert rows[name]["value"] == pytest.approx(value, rel=1e-6)
        assert rows[name]["n"] == len(baseline)
        assert rows[name]["value_low"] <= value <= rows[name]["value_high"]
    # The interval resamples documents: its width is that of the ratio estimator over them, up to resampling noise.
    by_document = baseline.group_by("document").agg(pl.col("loss").sum(), n=pl.len())
    loss, n = by_document["loss"].to_numpy(), by_document["n"].to_numpy()
    error = np.sqrt(((loss - n * expected["loss"]) ** 2).sum()) / n.sum()
    assert rows["loss"]["value_high"] - rows["loss"]["value_low"] == pytest.approx(2 * 1.96 * error, rel=0.15)


def test_one_neuron_by_hooked_forward_passes(world: World, survey: dict, rules: dict) -> None:
    """TE of loss and entropy of the neuron with the largest effect, from whole forward passes alone."""
    model: Model = load_model(world.spec)
    tokens, counted = (np.array(rules["tokens"][name].to_list()) for name in ("tokens", "counted"))
    ids, layer = torch.from_numpy(tokens).long(), model.n_layers - 1
    neuron = int(survey["neurons"]["te_loss"].arg_max())
    activations = model.activations(ids, [layer])[layer][..., neuron].numpy()
    value = float(activations[counted].astype(np.float64).mean())
    outcomes = []
    for replace in (None, (layer, neuron, value)):
        lp = model.logits(ids, replace).double().log_softmax(-1)
        loss = -lp[:, :-1].gather(-1, ids[:, 1:, None])[..., 0].numpy()[counted[:, :-1]]
        entropy = -(lp.exp() * lp).sum(-1).numpy()[counted]
        outcomes.append((loss, entropy))
    (loss, entropy), (loss_after, entropy_after) = outcomes
    row = survey["neurons"].row(neuron, named=True)
    assert row["te_loss"] == pytest.approx(np.abs(loss_after - loss).mean(), rel=1e-3)
    assert row["te_entropy"] == pytest.approx(np.abs(entropy_after - entropy).mean(), rel=1e-3)


def test_the_summary_follows_from_the_neurons(survey: dict) -> None:
    neurons, rows = survey["neurons"], {row["quantity"]: row for row in survey["summary"].to_dicts()}
    assert rows["max_rho"]["value"] == neurons["rho"].max()
    assert rows["frequency_neurons"]["value"] == (neurons["frequency_cosine"].abs() > 0.3).mean()
    assert rows["frequency_neurons"]["n"] == len(neurons)
    audible_rows = neurons.filter(pl.col("te_entropy") > pl.col("te_entropy").median())
    assert rows["max_m_entropy"]["value"] == pytest.approx(audible_rows["m_entropy"].max(), abs=1e-12)
    assert rows["max_m_entropy"]["n"] == audible_rows["m_entropy"].count()
    values = survey["spectrum"]["singular_value"].to_numpy()
    values = values[values > 0]
    tail = values[len(values) - len(values) // 4 :]
    assert rows["null_space_ratio"]["value"] == pytest.approx((tail[:-1] / tail[1:]).max(), rel=1e-9)
    for row in rows.values():
        if row["value_low"] is not None:
            assert row["value_low"] <= row["value"] <= row["value_high"]


def test_random_directions_by_brute_force(neox: World, tiny_model: Callable[..., Model]) -> None:
    """The share of random directions beyond the limit, from their logits themselves, with draws of the test's own."""
    found = {row["quantity"]: row for row in neox.survey("random")["summary"].to_dicts()}["frequency_chance"]
    counts = neox.folder / "counts.parquet"
    count_tokens(documents=neox.documents, counts=None, output=counts, model=neox.spec, text=neox.text)
    table = read_table(counts, "token_counts")
    real, p = table["real"].to_numpy(), np.log(table["count"].to_numpy() + 1.0)
    w = np.random.default_rng(1).normal(size=(20_000, 32))
    w -= w.mean(1, keepdims=True)
    logits = (w @ tiny_model("gpt_neox").readout(torch.float64).W.numpy())[:, real]
    logits -= logits.mean(1, keepdims=True)
    target = p[real] - p[real].mean()
    cosine = logits @ target / np.linalg.norm(logits, axis=1) / np.linalg.norm(target)
    share = (np.abs(cosine) > 0.3).mean()
    assert found["n"] == 10_000
    assert found["value"] == pytest.approx(share, abs=4 * np.sqrt(share * (1 - share) / 10_000) + 1e-3)


def test_induction_score_by_brute_force(neox: World, tiny_model: Callable[..., Model]) -> None:
    """The best head's score from the attention patterns of the Hugging Face model itself."""
    found = {row["quantity"]: row for row in neox.survey("heads")["summary"].to_dicts()}["induction_head"]
    model = tiny_model("gpt_neox")
    tokens = draw_random(model, 12, 6, 4).tokens
    network = AutoModelForCausalLM.from_pretrained(neox.spec.path, attn_implementation="eager").eval()
    with torch.no_grad():
        patterns = network(torch.from_numpy(tokens).long(), output_attentions=True, use_cache=False).attentions
    scores = []
    for pattern in patterns:
        for head in range(pattern.shape[1]):
            rows = [pattern[:, head, query, query - 11] for query in range(13, 25)]
            scores.append(float(torch.stack(rows).mean()))
    assert found["value"] == pytest.approx(max(scores), rel=1e-4)
    assert found["n"] == 6


def test_published_counts_take_the_place_of_the_text(neox: World) -> None:
    counts = neox.folder / "published.npy"
    np.save(counts, np.random.default_rng(0).zipf(1.4, 196))
    ours, theirs = neox.survey("published", count_source=str(counts)), neox.survey("own")
    assert neox.survey("listed", count_source=[counts])["neurons"].equals(ours["neurons"])
    assert not np.allclose(ours["neurons"]["frequency_cosine"], theirs["neurons"]["frequency_cosine"])
    assert not np.allclose(ours["neurons"]["te_kl"], theirs["neurons"]["te_kl"])
    assert ours["neurons"]["te_loss"].equals(theirs["neurons"]["te_loss"])


def test_the_same_survey_has_the_same_bytes_and_chunks_do_not_matter(neox: World) -> None:
    neox.survey("first")
    neox.survey("second")
    for table in TABLES:
        first, second = (neox.folder / run / f"{table}.parquet" for run in ("first", "second"))
        assert first.read_bytes() == second.read_bytes()
    whole = neox.survey("first")["neurons"]
    parts = neox.survey("parts", tokens_per_chunk=5, neurons_per_tile=20, batch_size=2)["neurons"]
    for name in ("te_loss", "te_entropy", "te_kl"):
        close(parts[name], whole[name], rtol=1e-5, atol=1e-8)


def test_zero_ablation_differs_and_unknown_replacements_are_refused(neox: World) -> None:
    zero, mean = (neox.survey(name, replacement=name)["neurons"]["te_loss"] for name in ("zero", "mean"))
    assert not np.allclose(zero, mean)
    for name in ("median", "resample", "position_mean"):
        with pytest.raises(ReplacementError, match=f"'{name}'"):
            neox.survey("refused", replacement=name)


def test_bad_input_is_named(neox: World) -> None:
    with pytest.raises(AttentionError, match=r"induction\.heads\.length is 40"):
        neox.survey("refused", heads_length=40)
    with pytest.raises(NullSpaceError, match=r"weights\.null_space_k"):
        neox.survey("refused", null_space_k=[33])
    with pytest.raises(CountsError, match="no file"):
        neox.survey("refused", count_source=neox.folder / "missing.npy")
    assert not (neox.folder / "refused").exists()


def frame_of(n: int = 8, **columns: object) -> pl.DataFrame:
    """A table "survey_neurons" of a layer without any remarkable neuron, but for the columns given."""
    plain = {
        "layer": [1] * n,
        "neuron": list(range(n)),
        "norm": [1.0] * n,
        "logit_var": [1e-3] * n,
        "rho": [0.2] * n,
        "rho_p_value": [0.5] * n,
        "unembed_gain": [1.0] * n,
        "frequency_cosine": [0.0] * n,
        "te_loss": [float(i) for i in range(n)],
        "te_entropy": [float(i) for i in range(n)],
        "te_kl": [0.1] * n,
        "m_loss": [0.0] * n,
        "m_entropy": [0.0] * n,
        "m_freq_loss": [0.0] * n,
    }
    return pl.DataFrame(plain | columns, strict=False)


def test_an_entropy_neuron_needs_all_three() -> None:
    n = 8
    p = [1e-9] * n
    m = [0.9] * n
    assert entropy_neurons(frame_of(rho_p_value=p, m_entropy=m)).tolist() == [False] * 4 + [True] * 4
    assert not entropy_neurons(frame_of(rho_p_value=[0.04] * n, m_entropy=m)).any()
    assert not entropy_neurons(frame_of(rho_p_value=p, m_entropy=[0.5] * n)).any()
    assert not entropy_neurons(frame_of(rho_p_value=[None] * n, m_entropy=m)).any()
    assert not entropy_neurons(frame_of(rho_p_value=p, m_entropy=[None] * n)).any()
    assert not entropy_neurons(frame_of(rho_p_value=p, m_entropy=m, te_entropy=[1.0] * n)).any()


def test_chance_is_corrected_over_the_layer() -> None:
    # Holm at 0.05 over five: 0.0099 < 0.05/5, 0.0124 < 0.05/4, then 0.02 > 0.05/3 stops it, whatever follows.
    p = np.array([0.0124, 0.02, 0.0099, 0.024, np.nan, 0.9])
    assert beyond_chance(p).tolist() == [True, False, True, False, False, False]
    uniform = np.random.default_rng(0).uniform(size=(400, 50))
    assert np.mean([beyond_chance(row).any() for row in uniform]) < 0.08
    assert audible(np.array([1.0, 2.0, 3.0, 4.0])).tolist() == [False, False, True, True]


def summary_of(neurons: pl.DataFrame, effects: dict[str, np.ndarray], values: np.ndarray) -> dict[str, dict]:
    rng = np.random.default_rng(0)
    documents = len(next(iter(effects.values())))
    sums = Sums(np.full(documents, 10.0), {"loss": rng.uniform(size=documents)}, effects)
    frame = summary_frame(
        neurons,
        sums,
        values=values,
        heads=rng.uniform(size=(4, 3)),
        random_cosines=np.linspace(-1, 1, 11),
        resamples=50,
        level=0.9,
        te_floor=1e-6,
        seed=0,
    )
    return {row["quantity"]: row for row in frame.to_dicts()}


def test_silent_neurons_do_not_win_and_missing_ones_are_null() -> None:
    n = 4
    whole, part = np.ones((3, n)), np.full((3, n), 0.7)
    effects = {f"loss_{v}": x for v, x in (("total", whole), ("direct", part), ("unigram", part))}
    effects |= {"entropy_total": whole, "entropy_direct": part}
    loud = [0.001, 0.002, 1.0, 2.0]
    neurons = frame_of(n, te_loss=loud, te_entropy=loud, m_loss=[0.99, 0.98, 0.2, 0.3], m_entropy=[None] * n)
    rows = summary_of(neurons, effects, np.array([4.0, 3.0, 2.0, 1.0]))
    assert rows["max_m_loss"]["value"] == pytest.approx(0.3 * 1.0 / 1.0, abs=1e-9)
    assert rows["max_m_loss"]["n"] == 2
    assert rows["max_m_entropy"] == {
        "quantity": "max_m_entropy",
        "n": 0,
        "value": None,
        "value_low": None,
        "value_high": None,
    }
    assert rows["frequency_chance"]["value"] == pytest.approx(8 / 11)
    assert rows["null_space_ratio"]["value"] == 2.0
    assert rows["induction_head"]["n"] == 4
    silent = summary_of(frame_of(n, rho=[None] * n, rho_p_value=[None] * n), effects, np.array([1.0]))
    assert silent["max_rho"]["value"] is None
    assert silent["null_space_ratio"]["value"] is None
