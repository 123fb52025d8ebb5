"""Configurations that build on another one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from neuronlab.configuration import ConfigError
from neuronlab.configuration_extends import extended, merged

trees = st.recursive(
    st.integers() | st.lists(st.integers(), max_size=2),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, min_size=1, max_size=3),
    max_leaves=8,
)
mappings = st.dictionaries(st.sampled_from("abc"), trees, max_size=3)


def leaves(tree: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    if not isinstance(tree, dict):
        return {path: tree}
    return {key: value for name, child in tree.items() for key, value in leaves(child, (*path, name)).items()}


@given(mappings, mappings)
def test_every_own_value_survives_and_base_values_fill_in(base: dict, own: dict) -> None:
    result = leaves(merged(base, own))
    assert leaves(own).items() <= result.items()
    for path, value in leaves(base).items():
        taken = any(path[:n] in leaves(own) for n in range(1, len(path) + 1))
        covered = any(other[: len(path)] == path for other in leaves(own))
        assert taken or covered or result[path] == value
    assert result.keys() <= leaves(base).keys() | leaves(own).keys()


def write(path: Path, content: dict) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(content))
    return path


def test_a_chain_is_followed_relative_to_each_file(tmp_path: Path) -> None:
    write(tmp_path / "base" / "all.yaml", {"seed": 1, "models": {"a": {"source": "demo"}}, "texts": {"t": {"n": 1}}})
    write(tmp_path / "base" / "some.yaml", {"extends": "all.yaml", "seed": 2, "texts": {"t": {"m": 3}}})
    own = {"extends": "base/some.yaml", "models": {"b": {"source": "hub"}}, "texts": {"t": {"n": 4}}}
    assert extended(own, [tmp_path / "elsewhere", tmp_path]) == {
        "seed": 2,
        "models": {"a": {"source": "demo"}, "b": {"source": "hub"}},
        "texts": {"t": {"n": 4, "m": 3}},
    }
    assert own["extends"] == "base/some.yaml"


def test_nothing_to_extend_changes_nothing(tmp_path: Path) -> None:
    assert extended({"seed": 3, "models": {}}, [tmp_path]) == {"seed": 3, "models": {}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"extends: there is no file 'base\.yaml' in .*correct the path"),
        ("- 1\n- 2\n", r"'.*base\.yaml' holds no configuration"),
        ("a: [1", r"'.*base\.yaml' is not YAML"),
        ("extends: base.yaml\n", r"base\.yaml' -> '.*base\.yaml' go round in a circle"),
    ],
)
def test_a_base_that_cannot_be_read_is_named(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "base.yaml").write_text(content)
    with pytest.raises(ConfigError, match=message):
        extended({"extends": "base.yaml"}, [tmp_path])


def test_only_one_path_can_be_extended(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="must be the path of one configuration file"):
        extended({"extends": ["a.yaml", "b.yaml"]}, [tmp_path])
