"""The logit lens against a float64 NumPy lens over Hugging Face's hidden states; tests of METHODS C defects 1 to 4."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import depth_texts
import numpy as np
import polars as pl
import pytest
import tiny_models
import torch
from neuronlab.boosted_tokens import spell_tokens
from neuronlab.final_states import Text
from neuronlab.layer_outcomes import OUTCOMES, read
from neuronlab.logit_lens import (
    LensError,
    check_last_layer,
    documents_frame,
    draw_passages,
    means_frame,
    measure_lens,
    read_lens,
)
from neuronlab.models import Model, ModelSpec
from neuronlab.readout import Readout, fold
from neuronlab.statistics import bootstrap_weights
from neuronlab.tables import read_table, write_table
from scipy.special import log_softmax
from transformers import AutoModelForCausalLM, AutoTokenizer

TINY = Callable[..., Model]
TABLES = ("lens", "lens_documents", "lens_tokens")


class NaiveLens:
    """Final norm, unembedding and softmax in NumPy from a Hugging Face model's own weights and hidden states."""

    def __init__(self, directory: Path, tokens: np.ndarray) -> None:
        network = AutoModelForCausalLM.from_pretrained(directory, attn_implementation="eager").eval()
        with torch.no_grad():
            output = network(torch.from_numpy(tokens), output_hidden_states=True)
        # The last hidden state has passed the final norm: of it the model's own logits are taken.
        self.hidden = [state.double().numpy() for state in output.hidden_states[:-1]]
        self.own = log_softmax(output.logits.double().numpy(), axis=-1)
        head = network.get_output_embeddings()
        self.W_U = head.weight.detach().double().numpy()
        self.b_U = 0.0 if head.bias is None else head.bias.detach().double().numpy()
        body = network.base_model
        norms = [
            getattr(body, name)
            for name in ("ln_f", "final_layer_norm", "final_layernorm", "norm")
            if hasattr(body, name)
        ]
        (norm,) = norms
        self.gain = norm.weight.detach().double().numpy() + float("Gemma" in type(norm).__name__)
        self.bias = norm.bias.detach().double().numpy() if getattr(norm, "bias", None) is not None else 0.0
        self.centred = isinstance(norm, torch.nn.LayerNorm)
        self.softcap = getattr(network.config, "final_logit_softcapping", None)

    def centre(self, x: np.ndarray) -> np.ndarray:
        return x - x.mean(-1, keepdims=True) if self.centred else x

    def scale(self, x: np.ndarray) -> np.ndarray:
        return np.sqrt((self.centre(x) ** 2).mean(-1, keepdims=True) + tiny_models.EPS)

    def log_probabilities(self, x: np.ndarray, scale: np.ndarray | None = None, biased: bool = True) -> np.ndarray:
        """Of residuals [..., d]; with another scale or without biases to see what the published lens did."""
        normed = self.centre(x) / (self.scale(x) if scale is None else scale) * self.gain
        logits = (normed + self.bias) @ self.W_U.T + self.b_U if biased else normed @ self.W_U.T
        return log_softmax(logits if self.softcap is None else self.softcap * np.tanh(logits / self.softcap), axis=-1)

    def layers(self) -> list[np.ndarray]:
        return [*(self.log_probabilities(x) for x in self.hidden), self.own]


def outcomes_of(lens: np.ndarray, final: np.ndarray, target: int) -> dict[str, float]:
    """Outcomes of one token by their definitions, from log-probabilities [vocab]."""
    wanted = int(final.argmax())
    rank = int((lens > lens[wanted]).sum())
    return {
        "entropy": -sum(np.exp(lp) * lp for lp in lens),
        "kl": sum(np.exp(f) * (f - lp) for f, lp in zip(final, lens, strict=True)),
        "loss": -lens[target],
        "agreement": float(lens.argmax() == wanted),
        "reciprocal_rank": 1 / (1 + rank),
    }


def log_probabilities(readout: Readout, residual: torch.Tensor) -> torch.Tensor:
    """As the rule reads them."""
    found, _ = read(readout, residual)
    return found.logits - found.normaliser[:, None]


def spec_of(directory: Path) -> ModelSpec:
    return ModelSpec("tiny", "directory", path=str(directory), device="cpu")


def run_rule(directory: Path, tokens: Path, folder: Path, **options: object) -> dict[str, pl.DataFrame]:
    """The rule's three tables, by name."""
    paths = {name: folder / f"{name}.parquet" for name in TABLES}
    arguments = {"passages": 2, "passage_tokens": 5, "batch_size": 4, "tokens_per_chunk": 7, "resamples": 50} | options
    measure_lens(model=spec_of(directory), tokens=tokens, **paths, **arguments)
    return {name: read_table(path, name) for name, path in paths.items()}


def test_all_tables_by_loops(architecture: str, tiny_directories: dict[str, Path], tmp_path: Path) -> None:
    """Means, means by document and the passage, token by token, of all seven architectures."""
    path = depth_texts.write_depth_text(tmp_path / "tokens.parquet", bos=architecture not in tiny_models.WITHOUT_BOS)
    text = Text.read(path)
    found = run_rule(tiny_directories[architecture], path, tmp_path)
    layers = NaiveLens(tiny_directories[architecture], text.tokens).layers()
    strings = spell_tokens(AutoTokenizer.from_pretrained(tiny_directories[architecture]), tiny_models.D_VOCAB)
    rows = [
        {"layer": layer, "sequence": s, "position": t, "document": text.documents[s, t]}
        | outcomes_of(lens[s, t], layers[-1][s, t], text.tokens[s, t + 1])
        for layer, lens in enumerate(layers)
        for s, t in zip(*np.nonzero(text.counted), strict=True)
    ]
    expected = pl.DataFrame(rows)
    assert found["lens"]["layer"].to_list() == [0, 1, 2]
    assert found["lens"]["depth"].to_list() == [0.0, 0.5, 1.0]
    for row in found["lens"].iter_rows(named=True):
        of_layer = expected.filter(layer=row["layer"])
        assert (row["n_tokens"], row["n_documents"]) == (len(of_layer), of_layer["document"].n_unique())
        for name in OUTCOMES:
            assert row[name] == pytest.approx(of_layer[name].mean(), rel=1e-4, abs=1e-5)
            assert row[f"{name}_low"] <= row[name] <= row[f"{name}_high"]
        for end in ("", "_low", "_high"):
            assert row[f"entropy_bits{end}"] == pytest.approx(row[f"entropy{end}"] / np.log(2))
    assert len(found["lens_documents"]) == 3 * expected["document"].n_unique()
    for row in found["lens_documents"].iter_rows(named=True):
        of_document = expected.filter(layer=row["layer"], document=row["document"])
        assert row["n_tokens"] == len(of_document)
        for name in OUTCOMES:
            assert row[name] == pytest.approx(of_document[name].mean(), rel=1e-4, abs=1e-5)
        assert row["entropy_bits"] == pytest.approx(row["entropy"] / np.log(2))
    assert len(found["lens_tokens"]) == 2 * 3 * 5
    assert found["lens_tokens"].group_by("passage").agg(pl.col("sequence").n_unique())["sequence"].to_list() == [1, 1]
    assert found["lens_tokens"]["sequence"].n_unique() == 2
    for row in found["lens_tokens"].iter_rows(named=True):
        place = {name: row[name] for name in ("layer", "sequence", "position", "document")}
        one = expected.filter(**place).row(0, named=True)
        assert row["token"] == text.tokens[row["sequence"], row["position"]]
        assert row["entropy"] == pytest.approx(one["entropy"], rel=1e-4)
        assert row["entropy_bits"] == pytest.approx(one["entropy"] / np.log(2), rel=1e-4)
        assert row["kl"] == pytest.approx(one["kl"], rel=1e-4, abs=1e-5)
        assert row["loss"] == pytest.approx(one["loss"], rel=1e-4)
        assert row["rank"] == round(1 / one["reciprocal_rank"]) - 1
        assert row["string"] == strings[row["token"]]
        assert row["top_string"] == strings[layers[row["layer"]][row["sequence"], row["position"]].argmax()]


def test_every_layer_has_its_own_scale_c_defect_2(tiny_directories: dict[str, Path], tiny_model: TINY) -> None:
    """The final layer's scale on the embedding gives other entropies, and they are not ours."""
    text = Text.of_frame(depth_texts.depth_text(), "made up")
    for name in ("gpt2", "llama"):
        naive = NaiveLens(tiny_directories[name], text.tokens)
        model = tiny_model(name)
        found = read_lens(model, model.readout(), text.tokens, text.counted, 64)[0, OUTCOMES.index("entropy")]
        final = model.run(torch.from_numpy(text.tokens)).residual.double().numpy()
        own, reused = (
            naive.log_probabilities(naive.hidden[0], scale)[text.counted] for scale in (None, naive.scale(final))
        )
        np.testing.assert_allclose(found, -(np.exp(own) * own).sum(-1), rtol=1e-4)
        assert np.abs(found - -(np.exp(reused) * reused).sum(-1)).mean() > 0.05


def test_the_lens_does_not_see_the_length_of_a_residual_c_defect_2() -> None:
    """A residual ten times as long is the same to a norm of its own."""
    generator = torch.Generator().manual_seed(0)
    W_U, gain = torch.randn(16, 50, generator=generator), 1 + 0.2 * torch.randn(16, generator=generator)
    residual = torch.randn(6, 16, generator=generator, dtype=torch.float64)
    for kind in ("LN", "RMS"):
        readout = fold(W_U, None, gain, None, eps=1e-12, kind=kind)
        torch.testing.assert_close(
            log_probabilities(readout, residual), log_probabilities(readout, 10 * residual), rtol=0, atol=1e-9
        )


def test_biases_take_part_c_defect_2(tiny_directories: dict[str, Path], tiny_model: TINY) -> None:
    """Phi's unembedding has a bias, GPT-2's final norm has one: without them the lens would differ."""
    text = Text.of_frame(depth_texts.depth_text(), "made up")
    for name in ("phi", "gpt2"):
        naive, model = NaiveLens(tiny_directories[name], text.tokens), tiny_model(name)
        found = read_lens(model, model.readout(), text.tokens, text.counted, 64)[1, OUTCOMES.index("entropy")]
        own, without = (
            naive.log_probabilities(naive.hidden[1], biased=biased)[text.counted] for biased in (True, False)
        )
        np.testing.assert_allclose(found, -(np.exp(own) * own).sum(-1), rtol=1e-4)
        assert np.abs(found - -(np.exp(without) * without).sum(-1)).mean() > 0.01


def test_a_row_speaks_of_one_position_c_defect_1(tiny_directories: dict[str, Path], tiny_model: TINY) -> None:
    """At position t the loss is that of token t + 1 under the distribution at t, whose entropy stands beside it."""
    model = tiny_model("gpt_neox")
    text = Text.of_frame(depth_texts.depth_text(), "made up")
    network = AutoModelForCausalLM.from_pretrained(tiny_directories["gpt_neox"]).eval()
    tokens, t = torch.from_numpy(text.tokens[:1]), 5
    counted = np.zeros((1, tokens.shape[1]), dtype=bool)
    counted[0, t] = True
    found = read_lens(model, model.readout(), text.tokens[:1], counted, 64)[-1, :, 0]
    labels = torch.full_like(tokens, -100)
    labels[0, t + 1] = tokens[0, t + 1]
    with torch.no_grad():
        output = network(tokens, labels=labels)
    assert found[OUTCOMES.index("loss")] == pytest.approx(float(output.loss), rel=1e-5)
    at_t = torch.distributions.Categorical(logits=output.logits[0, t])
    assert found[OUTCOMES.index("entropy")] == pytest.approx(float(at_t.entropy()), rel=1e-5)


def test_entropies_are_not_clamped_c_defect_3() -> None:
    """A certain prediction has entropy 0 and not that of clamped probabilities; an even one has log V."""
    vocab = 50_000
    W_U = torch.zeros(2, vocab, dtype=torch.float64)
    W_U[0, 7] = 60.0
    readout = fold(W_U, None, torch.ones(2), None, eps=1e-12, kind="RMS", dtype=torch.float64)
    found, probabilities = read(readout, torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    assert float(found.entropy[0]) == pytest.approx(0, abs=1e-10)
    assert float(found.entropy[1]) == pytest.approx(np.log(vocab), rel=1e-12)
    clamped = probabilities[0].clamp_min(1e-9)
    assert -(clamped * clamped.log2()).sum() > 1e-3  # what the published code would give


def test_tokens_are_weighted_and_marks_left_out_c_defect_4(tiny_directories: dict[str, Path], tmp_path: Path) -> None:
    """A mean is one over tokens, whatever their documents; what does not count changes nothing."""
    path = depth_texts.write_depth_text(tmp_path / "tokens.parquet")
    found = run_rule(tiny_directories["gpt2"], path, tmp_path)
    documents = found["lens_documents"].filter(layer=0)
    assert documents["n_tokens"].n_unique() > 1
    weighted = (documents["entropy"] * documents["n_tokens"]).sum() / documents["n_tokens"].sum()
    assert found["lens"]["entropy"][0] == pytest.approx(weighted, rel=1e-12)
    assert abs(weighted - documents["entropy"].mean()) > 1e-4
    assert -1 not in documents["document"]


def test_intervals_by_a_loop_over_resamples() -> None:
    generator = np.random.default_rng(0)
    counts = np.array([3, 9, 1, 5])
    tokens = [generator.random((n, 3, len(OUTCOMES))) for n in counts]
    weights = bootstrap_weights(4, 60, 2)
    frame = means_frame(np.stack([values.sum(0) for values in tokens]), counts, weights, 0.9)
    means = [
        np.concatenate([values for values, n in zip(tokens, times, strict=True) for _ in range(n)]).mean(0)
        for times in weights.astype(int)
    ]
    low, high = np.quantile(means, [0.05, 0.95], axis=0)
    for place, name in enumerate(OUTCOMES):
        np.testing.assert_allclose(frame[name], np.concatenate(tokens).mean(0)[:, place])
        np.testing.assert_allclose(frame[f"{name}_low"], low[:, place])
        np.testing.assert_allclose(frame[f"{name}_high"], high[:, place])


def test_the_last_layer_is_the_model_itself(
    architecture: str,
    tiny_model: TINY,
    tiny_directories: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Log-probabilities of the last lens are the model's own, and the run's log says to what tolerance."""
    model = tiny_model(architecture, "float64")
    text = Text.of_frame(depth_texts.depth_text(), "made up")
    residual = model.run(torch.from_numpy(text.tokens)).residual
    lens = log_probabilities(model.readout(torch.float64), residual.flatten(0, 1))
    own = model.logits(torch.from_numpy(text.tokens)).log_softmax(-1).flatten(0, 1)
    torch.testing.assert_close(lens, own, rtol=0, atol=1e-10)
    path = depth_texts.write_depth_text(tmp_path / "tokens.parquet")
    last = run_rule(tiny_directories[architecture], path, tmp_path)["lens"].row(-1, named=True)
    assert (last["kl"], last["agreement"], last["reciprocal_rank"]) == (0.0, 1.0, 1.0)
    assert "(tolerance in float32: 5e-05;" in capsys.readouterr().err


def test_a_lens_that_is_not_the_model_is_refused(tiny_model: TINY) -> None:
    model = tiny_model("phi")
    readout = model.readout()
    text = Text.of_frame(depth_texts.depth_text(), "made up")
    check_last_layer(model, readout, text)
    with pytest.raises(LensError, match="last layer differs from the model's own"):
        check_last_layer(model, replace(readout, b=torch.zeros_like(readout.b)), text)


def test_batches_and_chunks_do_not_matter(tiny_directories: dict[str, Path], tmp_path: Path) -> None:
    path = depth_texts.write_depth_text(tmp_path / "tokens.parquet")
    (tmp_path / "other").mkdir()
    one = run_rule(tiny_directories["mistral"], path, tmp_path, batch_size=1, tokens_per_chunk=3)
    other = run_rule(tiny_directories["mistral"], path, tmp_path / "other", batch_size=6, tokens_per_chunk=1000)
    for name in TABLES:
        for column in one[name].columns:
            if one[name][column].dtype == pl.Float64:
                np.testing.assert_allclose(one[name][column], other[name][column], rtol=1e-4, atol=1e-6)
            else:
                assert one[name][column].to_list() == other[name][column].to_list()


def test_same_bytes_again_and_a_sample_of_sequences(tiny_directories: dict[str, Path], tmp_path: Path) -> None:
    path = depth_texts.write_depth_text(tmp_path / "tokens.parquet")
    found = {}
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        found = run_rule(tiny_directories["gpt2"], path, tmp_path / folder, sequences=2, seed=3)
    for name in TABLES:
        files = [tmp_path / folder / f"{name}.parquet" for folder in ("a", "b")]
        assert files[0].read_bytes() == files[1].read_bytes()
    counted = Text.read(path).counted.sum(axis=1)
    assert found["lens"]["n_tokens"][0] in {counted[i] + counted[j] for i in range(6) for j in range(i)}


def passage_text(counted: list[list[int]], documents: list[list[int]]) -> Text:
    return Text(np.zeros_like(np.array(documents)), np.array(documents), np.array(counted, dtype=bool))


def test_a_passage_is_of_one_document_and_drawn_evenly() -> None:
    """Positions that do not count are passed over, borders of documents are not."""
    text = passage_text(
        [[0, 1, 1, 0, 1, 1, 1, 0], [0, 1, 1, 1, 1, 0, 1, 0]], [[-1, 0, 0, 0, 0, 1, 1, 1], [-1] + [2] * 7]
    )
    seen = [draw_passages(text, 1, 3, seed)[0] for seed in range(400)]
    found = {(sequence, tuple(positions.tolist())) for sequence, positions in seen}
    assert found == {(0, (1, 2, 4)), (1, (1, 2, 3)), (1, (2, 3, 4)), (1, (3, 4, 6))}
    first = sum(sequence == 0 for sequence, _ in seen)
    assert 70 <= first <= 130  # a quarter of 400, give or take 3.5 standard deviations
    ((sequence, positions),) = draw_passages(text, 1, 6, 0)  # no document has six: the longest
    assert (sequence, positions.tolist()) == (1, [1, 2, 3, 4, 6])


def test_passages_are_of_different_sequences() -> None:
    """The first one is the same, however many are drawn; a sequence without a long stretch comes last, as it is."""
    text = passage_text([[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 0], [0, 1, 1, 1, 1, 0], [0] * 6], [[4] * 6] * 4)
    drawn = draw_passages(text, 9, 4, 2)
    assert sorted(sequence for sequence, _ in drawn) == [0, 1, 2]
    assert (drawn[2][0], drawn[2][1].tolist()) == (0, [0, 1, 2])
    (first,) = draw_passages(text, 1, 4, 2)
    assert first[0] == drawn[0][0]
    assert first[1].tolist() == drawn[0][1].tolist()


def test_ids_that_pad_the_vocabulary_are_named(tiny_model: TINY, tmp_path: Path) -> None:
    """They stay in the softmax (METHODS 0.6), so that one may be on top; a model of such a kind is made here."""
    network = tiny_models.make_model("phi")
    with torch.no_grad():
        network.lm_head.bias[198] = 1e4
    network.save_pretrained(tmp_path / "model")
    tiny_models.make_tokenizer().save_pretrained(tmp_path / "model")
    path = depth_texts.write_depth_text(tmp_path / "tokens.parquet")
    found = run_rule(tmp_path / "model", path, tmp_path)
    assert set(found["lens_tokens"]["top_string"]) == {"<padding 198>"}
    assert found["lens"]["entropy"].max() < 1e-6


def test_one_document_has_no_interval(tiny_directories: dict[str, Path], tmp_path: Path) -> None:
    frame = depth_texts.depth_text().head(1).with_columns(documents=pl.Series([[-1] + [7] * 19]))
    write_table(frame, tmp_path / "tokens.parquet", "tokens")
    found = run_rule(tiny_directories["llama"], tmp_path / "tokens.parquet", tmp_path)
    assert found["lens"]["entropy"].null_count() == 0
    assert found["lens"]["entropy_low"].null_count() == found["lens"]["entropy_bits_high"].null_count() == 3


def test_documents_frame_by_hand() -> None:
    sums = np.zeros((2, 2, len(OUTCOMES)))
    sums[:, :, OUTCOMES.index("entropy")] = [[1.0, 2.0], [6.0, 8.0]]
    sums[:, :, OUTCOMES.index("agreement")] = [[0.0, 1.0], [1.0, 2.0]]
    sums[:, :, OUTCOMES.index("loss")] = [[3.0, 2.0], [2.0, 1.0]]
    sums[:, :, OUTCOMES.index("reciprocal_rank")] = [[0.5, 1.0], [1.0, 2.0]]
    frame = documents_frame(np.array([3, 8]), sums, np.array([1, 2]))
    assert frame["layer"].to_list() == [0, 0, 1, 1]
    assert frame["document"].to_list() == [3, 8, 3, 8]
    assert frame["entropy"].to_list() == [1.0, 3.0, 2.0, 4.0]
    assert frame["agreement"].to_list() == [0.0, 0.5, 1.0, 1.0]
    assert frame["loss"].to_list() == [3.0, 1.0, 2.0, 0.5]
    assert frame["reciprocal_rank"].to_list() == [0.5, 0.5, 1.0, 1.0]
    assert frame["entropy_bits"].to_list() == pytest.approx([value / np.log(2) for value in frame["entropy"]])
