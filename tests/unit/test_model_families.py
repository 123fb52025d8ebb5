"""Families by architecture, and how models of several families are told apart in figures."""

from __future__ import annotations

import json
from pathlib import Path

import fake_stages
import polars as pl
import pytest
from chart_specs import marks, rows, spec
from fake_stages import World
from neuronlab.figures import families, interventions, layer_neuron_counts, stages, theme
from neuronlab.model_families import FAMILIES, UNKNOWN, family_of
from neuronlab.model_files import ModelError, ModelSpec

NAMED = {"gpt2": "GPT-2", "phi": "Phi", "gpt2-xl": "GPT-2"}
STAGES = ("interventions", "lens", "vocabulary_counts", "local_attention_layers", "stages")


def spec_of(directory: Path) -> ModelSpec:
    return ModelSpec("tiny", "directory", path=str(directory))


@pytest.mark.parametrize(
    ("config", "family"),
    [
        ({"model_type": "gpt_neox", "architectures": ["GPTNeoXForCausalLM"]}, "GPT-NeoX"),
        ({"model_type": "my_own"}, "my_own"),
        ({"architectures": ["MambaForCausalLM"]}, "Mamba"),
        ({"architectures": ["GPT2LMHeadModel"]}, "GPT2"),
        ({}, UNKNOWN),
    ],
)
def test_family_by_model_type_else_by_class(config: dict, family: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert family_of(spec_of(tmp_path)) == family


def test_every_tiny_architecture_has_a_family_of_its_own(tiny_directories: dict[str, Path]) -> None:
    found = {family_of(spec_of(directory)) for directory in tiny_directories.values()}
    assert len(found) == len(tiny_directories)
    assert found <= set(FAMILIES.values())


def test_the_demo_is_a_gpt_neox() -> None:
    assert family_of(ModelSpec("demo", "demo")) == "GPT-NeoX"


@pytest.mark.parametrize("content", [None, "{"])
def test_an_unreadable_config_is_named(content: str | None, tmp_path: Path) -> None:
    if content:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(ModelError, match=r"models\.tiny: .*config\.json"):
        family_of(spec_of(tmp_path))


def test_families_have_colours_and_their_models_shades() -> None:
    looks = {look.name: look for look in families.looks_of(NAMED)}
    assert list(looks) == ["gpt2", "gpt2-xl", "phi"]
    assert looks["phi"].colour == theme.VERMILION
    assert len({look.colour for look in looks.values()}) == 3
    light, dark = (sum(int(looks[name].colour[i : i + 2], 16) for i in (1, 3, 5)) for name in ("gpt2", "gpt2-xl"))
    assert dark < light
    many = families.looks_of({f"m{i}": "one" for i in range(9)} | {"other": "two"})
    assert len({(look.colour, tuple(look.dash)) for look in many}) == 10


def test_a_single_family_has_a_colour_per_model() -> None:
    looks = families.looks_of({"a": "GPT-2", "b": "GPT-2"})
    assert [look.colour for look in looks] == [theme.BLUE, theme.VERMILION]


def test_families_come_from_whichever_table_says() -> None:
    made = fake_stages.tables(World(family="Phi"))
    assert families.families_of({"m": [None, made["stages"], made["lens"].head(0), made["vocabulary_counts"]]}) == {
        "m": "Phi"
    }
    assert families.families_of({"m": [made["lens"].head(0)], "n": [made["lens"]]}) == {"m": "", "n": "Phi"}


@pytest.mark.parametrize("figure", ["interventions", "layer_neuron_counts", "stages"])
def test_other_overlays_have_the_same_looks_and_name_the_families(figure: str) -> None:
    worlds = {"gpt2": World(), "phi": World(family="Phi", n_layers=9), "gpt2-xl": World(n_layers=16)}
    made = {model: fake_stages.tables(world) for model, world in worlds.items()}
    chart = {
        "interventions": lambda: interventions.chart(
            {model: found["interventions"] for model, found in made.items()}, text="pile"
        ),
        "layer_neuron_counts": lambda: layer_neuron_counts.chart(
            {model: found["vocabulary_counts"] for model, found in made.items()}
        ),
        "stages": lambda: stages.chart(
            {model: {name: found[name] for name in STAGES} for model, found in made.items()}, text="pile"
        ),
    }[figure]
    whole = spec(chart())
    expected = {look.name: look.colour for look in families.looks_of(NAMED)}
    lines = list(marks(whole, "line"))
    assert lines
    for part in lines:
        scale = part["encoding"]["color"]["scale"]
        assert dict(zip(scale["domain"], scale["range"], strict=True)) == expected
    heads = [row["family"] for part in marks(whole, "text") for row in rows(whole, part) if "family" in row]
    assert [name for name in heads if name in ("GPT-2", "Phi")] == ["GPT-2", "Phi"]


def test_the_tables_carry_the_family() -> None:
    made = fake_stages.tables(World(family="Phi"))
    for name in ("interventions", "lens", "vocabulary_counts", "local_attention_layers"):
        assert made[name]["family"].unique().to_list() == ["Phi"], name
    assert isinstance(made["lens"], pl.DataFrame)
