"""What study C's part of a configuration may ask for, and what is refused before anything runs."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
from neuronlab.configuration import ConfigError
from neuronlab.configuration_stages import check_stages, check_stages_sizes
from neuronlab.model_sizes import Sizes
from neuronlab.schemas_stages import INTERVENTIONS

PARTS = ["interventions", "lens", "vocabulary", "attention", "subjoiners", "features", "probes"]
CONFIG: dict[str, Any] = {
    "texts": {"t": {"sequence_length": 32, "bos": "auto"}, "short": {"sequence_length": 4, "bos": "auto"}},
    "stages_of_inference": {
        "models": ["m"],
        "texts": ["t"],
        "parts": PARTS,
        "interventions": list(INTERVENTIONS),
        "swaps": "adjacent",
        "offsets": 5,
        "subjoiners": {"pieces": [2, 5], "context": 16},
        "probes": {"features": ["ends_ing"]},
    },
}
SIZES = Sizes(d_model=32, n_layers=4, d_mlp=48, n_heads=4, n_ctx=64)


def configured(**values: object) -> dict[str, Any]:
    config = deepcopy(CONFIG)
    config["stages_of_inference"] |= values
    return config


def sizes(**values: int | None) -> Sizes:
    return Sizes(**({"d_model": 32, "n_layers": 4, "d_mlp": 48, "n_heads": 4, "n_ctx": 64} | values))


def test_what_can_be_done_passes() -> None:
    check_stages(CONFIG)
    check_stages_sizes(SIZES, CONFIG, "models.m")
    check_stages_sizes(sizes(n_layers=None, n_ctx=None), configured(swaps=["0-9"]), "models.m")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"parts": []}, r"stages_of_inference\.parts is empty, but stages_of_inference\.models names m: .*name a part"),
        (
            {"interventions": []},
            r"stages_of_inference\.interventions is empty: .*leave `interventions` out of stages_of",
        ),
        (
            {"probes": {"features": []}},
            r"probes\.features is empty: name a feature, or leave `probes` out of stages_of",
        ),
        (
            {"swaps": []},
            r"stages_of_inference\.swaps is empty: .*leave `swap` out of stages_of_inference\.interventions",
        ),
        (
            {"offsets": 31},
            r"offsets: 31 tokens back, .* texts\.t has more than 30 .*sequence_length 32\); lower it, or",
        ),
        (
            {"texts": ["t", "short"]},
            r"offsets: 5 tokens back, but no token that counts in texts\.short has more than 2",
        ),
    ],
)
def test_what_no_model_can_do_is_refused(values: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_stages(configured(**values))


@pytest.mark.parametrize(
    "values",
    [
        {"parts": [], "models": []},
        {"parts": ["lens"], "interventions": [], "swaps": [], "probes": {"features": []}, "offsets": 99},
        {"interventions": ["delete"], "swaps": []},
        {"offsets": 30},
        {"offsets": 99, "models": []},
    ],
)
def test_what_is_not_made_is_not_refused(values: dict) -> None:
    check_stages(configured(**values))


def test_a_window_may_reach_to_the_first_token_but_not_to_a_bos() -> None:
    """Of 32 tokens the last query is 30: thirty keys before it, one of them the BOS."""
    config = configured(offsets=30)
    check_stages(config)
    config["texts"]["t"]["bos"] = "always"
    with pytest.raises(ConfigError, match=r"offsets: 30 tokens back, .* more than 29 before it"):
        check_stages(config)


@pytest.mark.parametrize(
    ("found", "values", "message"),
    [
        ({"n_layers": 1}, {"interventions": ["swap"]}, r"interventions: `swap` alone, but models\.m has one layer"),
        ({}, {"swaps": ["0-1", "2-7"]}, r"swaps: '2-7' names layer 7, but the layers of models\.m are 0 to 3"),
        (
            {"n_ctx": 20},
            {},
            r"subjoiners\.context: 16 tokens and a word of up to 5 .* 21 tokens, .* is 20; lower it to 14",
        ),
    ],
)
def test_what_a_model_is_too_small_for_is_refused(found: dict, values: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_stages_sizes(sizes(**found), configured(**values), "models.m")


@pytest.mark.parametrize(
    ("found", "values"),
    [
        ({"n_layers": 1}, {"interventions": ["delete", "swap"]}),  # said in the log
        ({"n_layers": 1}, {"interventions": ["delete", "swap"], "swaps": ["0-1"]}),
        ({"n_layers": 1}, {"parts": ["lens"], "interventions": ["swap"]}),
        ({}, {"interventions": ["delete"], "swaps": ["0-9"]}),
        ({"n_ctx": 21}, {}),
        ({"n_ctx": 8}, {"parts": ["lens"]}),
    ],
)
def test_what_fits_a_small_model_is_not_refused(found: dict, values: dict) -> None:
    check_stages_sizes(sizes(**found), configured(**values), "models.m")
