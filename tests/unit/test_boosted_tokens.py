"""Most promoted and most suppressed tokens, against a plain sort of cosines."""

from __future__ import annotations

import numpy as np
import polars as pl
from neuronlab.boosted_tokens import boost_tokens, boosted, spell_tokens
from neuronlab.tables import read_table, write_table
from tokenizers import Tokenizer
from tokenizers.decoders import Metaspace as MetaspaceDecoder
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Metaspace
from transformers import PreTrainedTokenizerFast


def test_the_ends_of_the_sorted_cosines(architecture, tiny_model):
    model = tiny_model(architecture)
    readout = model.readout()
    w = model.w_out(1)[:5]
    tokens, cosines = boosted(w, readout, 4)
    W, real = readout.W.double().numpy(), np.flatnonzero(readout.real.numpy())
    for row in range(5):
        v = w[row].double().numpy()
        profile = {t: v @ W[:, t] / np.linalg.norm(v) / np.linalg.norm(W[:, t]) for t in real}
        order = sorted(profile, key=profile.get, reverse=True)
        assert tokens[row].tolist() == order[:4] + order[:-5:-1]
        np.testing.assert_allclose(cosines[row], [profile[t] for t in tokens[row].tolist()], atol=1e-12)


def test_spelling_keeps_spaces_and_names_padding(tiny_model):
    model = tiny_model("gpt2")
    strings = spell_tokens(model.tokenizer, model.d_vocab)
    assert len(strings) == model.d_vocab
    assert " the" in strings
    padded = np.flatnonzero(~model.readout().real.numpy())
    assert len(padded) > 0
    assert all(strings[token] == f"<padding {token}>" for token in padded)


def test_spelled_tokens_join_to_the_text():
    """A tokenizer that strips the first space of what it decodes, as SentencePiece's do."""
    pieces = Tokenizer(WordLevel({"\u2581the": 0, "\u2581river": 1, "s": 2, ".": 3, "<unk>": 4}, unk_token="<unk>"))
    pieces.pre_tokenizer, pieces.decoder = Metaspace(), MetaspaceDecoder()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=pieces, unk_token="<unk>")
    strings = spell_tokens(tokenizer, 6)
    assert tokenizer.decode([1]) == "river"
    assert strings == [" the", " river", "s", ".", strings[4], "<padding 5>"]
    ids = [0, 1, 2, 3, 0, 1]
    assert "".join(strings[token] for token in ids).lstrip(" ") == tokenizer.decode(ids)


def test_the_rule_writes_selected_neurons_only(tmp_path, tiny_model):
    spec = tiny_model("gpt2").spec
    columns = {"rule": "explicit", "layer": 1, "rank": 0, "matched": None, "norm_ratio": None}
    selection = pl.DataFrame(
        {
            "set": ["entropy", "entropy/uniform_000"],
            "kind": ["selection", "uniform"],
            "control_of": [None, "entropy"],
            "neuron": [7, 9],
        }
    ).with_columns(**{name: pl.lit(value) for name, value in columns.items()})
    write_table(selection, tmp_path / "selection.parquet", "selection")
    boost_tokens(
        model=spec,
        selection=tmp_path / "selection.parquet",
        boosted_tokens=tmp_path / "boosted.parquet",
        token_strings=tmp_path / "strings.parquet",
        count=3,
    )
    table = read_table(tmp_path / "boosted.parquet", "boosted_tokens")
    assert table["neuron"].unique().to_list() == [7]
    assert table["rank"].to_list() == [0, 1, 2, -1, -2, -3]
    assert table["cosine"].to_list()[0] == table["cosine"].max()
    assert table["cosine"].to_list()[3] == table["cosine"].min()
