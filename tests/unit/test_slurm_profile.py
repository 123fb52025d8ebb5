"""The Slurm profile and the list of local rules fit the rules that there are."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
PROFILE = ROOT / "profiles" / "slurm" / "config.yaml"


def rule_texts() -> dict[str, str]:
    """The text of every rule by its name."""
    texts = {}
    for path in (ROOT / "rules").glob("*.smk"):
        parts = re.split(r"^rule (\w+):$", path.read_text(), flags=re.MULTILINE)[1:]
        texts |= dict(zip(parts[::2], parts[1::2], strict=True))
    return texts


def local_rules() -> set[str]:
    """The rules that rules/cluster.smk runs beside snakemake."""
    source = (ROOT / "rules" / "cluster.smk").read_text()
    prefixes, names = (
        ast.literal_eval(re.search(rf"^{variable} = (\(.*?\))$", source, re.MULTILINE | re.DOTALL)[1])
        for variable in ("LOCAL_PREFIXES", "LOCAL_RULES")
    )
    assert set(names) <= set(rule_texts())
    return set(names) | {name for name in rule_texts() if name.startswith(prefixes)}


def test_the_profile_is_found_from_the_root():
    assert (ROOT / "slurm" / "config.yaml").samefile(PROFILE)


def test_job_arrays_are_the_rules_with_shards():
    arrays = {name.strip() for name in yaml.safe_load(PROFILE.read_text())["slurm-array-jobs"].split(",")}
    assert arrays == {name for name, text in rule_texts().items() if re.search(r"\{+shard\}+.*\.log\"", text)}


def test_no_local_rule_loads_a_model():
    texts = rule_texts()
    assert {"draw_overview", "fetch_model", "write_cards"} <= local_rules()
    assert [name for name in local_rules() if "gpu=0" not in texts[name]] == []
