"""Sizes by config.json alone, and what is refused by them before anything runs."""

from __future__ import annotations

import json

import pytest
from neuronlab.configuration import ConfigError
from neuronlab.model_sizes import Sizes, check_context, check_induction, planned_sizes, read_sizes

SIZES = Sizes(d_model=32, n_layers=2, d_mlp=48, n_heads=4, n_ctx=64, window=16)


def induction(length: int | None) -> dict:
    return {
        "synthetic": {"length": length, "repetitions": 2, "source": "text"},
        "heads": {"length": None, "sets": []},
    }


def check(length: int | None, parts: list[str]) -> None:
    check_induction(SIZES, induction(length), where="models.m", parts=parts, sequence_lengths={"t": 32})


def test_sequences_longer_than_the_context():
    check_context(SIZES, where="models.m", sequence_lengths={"short": 64})
    with pytest.raises(
        ConfigError, match=r"texts\.long\.sequence_length: 65 tokens, but the context of models\.m is 64"
    ):
        check_context(SIZES, where="models.m", sequence_lengths={"short": 64, "long": 65})


def test_repetitions_beyond_the_attention_window():
    with pytest.raises(ConfigError, match=r"induction\.synthetic\.length: all copies are 18 tokens, .* reaches 16"):
        check(9, ["heads"])
    check(7, ["heads"])
    check(9, ["induction"])  # local attention is no obstacle to measuring
    check(None, ["heads"])


@pytest.mark.parametrize(
    ("entries", "window"),
    [
        ({"sliding_window": 16}, 16),
        ({"sliding_window": None}, None),
        ({"sliding_window": 16, "use_sliding_window": False}, None),
        ({}, None),
    ],
)
def test_the_window_in_config_json(tmp_path, entries, window):
    (tmp_path / "config.json").write_text(json.dumps({"hidden_size": 8, **entries}))
    assert read_sizes(tmp_path).window == window


@pytest.mark.parametrize("content", [None, "", '{"n_embd": 3', "[]"])
def test_planned_sizes_stand_in_for_a_config_json_that_is_absent_or_cut_short(tmp_path, content):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    assert planned_sizes(tmp_path, {"d_model": 8}) == Sizes(d_model=8, n_layers=None, d_mlp=None)


def test_config_json_wins_over_planned_sizes(tmp_path):
    (tmp_path / "config.json").write_text('{"n_embd": 4}')
    assert planned_sizes(tmp_path, {"d_model": 8, "n_layers": 2}) == Sizes(d_model=4, n_layers=2, d_mlp=16)
