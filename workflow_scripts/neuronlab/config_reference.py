"""The reference of all configuration keys, generated from config/schema.yaml into config/README.md.

Run `python workflow_scripts/neuronlab/config_reference.py` after changing the schema; a test fails when the two
have drifted apart.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
INTRODUCTION = """# Configuration

Generated from `schema.yaml`; do not edit by hand.

`config.yaml` is the default run, the demo. Snakemake reads it only when no `--configfile` is given, so a configuration
of your own stands alone: it names its models, its texts and what to study. Unknown keys are refused. Single values can
be overridden on the command line: `snakemake --cores 2 --config seed=7`. Numbers inside of brackets there
(`--config 'compute={batch_size: 8}'`) are taken for text and refused: write a file of your own with `extends`.

"""


def _type(node: Mapping[str, Any]) -> str:
    if "enum" in node:
        return ", ".join(f"`{value}`" for value in node["enum"])
    kind = node.get("type", "")
    kinds = kind if isinstance(kind, list) else [kind]
    text = " or ".join("none" if name == "null" else name for name in kinds)
    if kind == "array":
        items = node["items"]
        text = f"list of {_type(items)}" if "enum" in items else f"list of {items['type']}s"
    return text


def _rows(node: Mapping[str, Any], prefix: str) -> Iterator[str]:
    for key, child in node.get("properties", {}).items():
        path = f"{prefix}{key}"
        described = child["description"].strip().replace("\n", " ").replace("|", "\\|")
        if "properties" in child:
            yield from _rows(child, f"{path}.")
        else:
            default = f"`{json.dumps(child['default'])}`" if "default" in child else ""
            required = "required" if key in node.get("required", []) else default
            yield f"| `{path}` | {_type(child)} | {required} | {described} |"


def render(schema: Mapping[str, Any]) -> str:
    """The whole of config/README.md, as Markdown: one section per top-level key, one row per key."""
    parts = [INTRODUCTION]
    for key, node in schema["properties"].items():
        parts.append(f"## `{key}`\n\n{node['description'].strip()}\n\n")
        entries = node.get("additionalProperties")
        if isinstance(entries, Mapping):
            rows = list(_rows(entries, f"{key}.<name>."))
        elif "properties" in node:
            rows = list(_rows(node, f"{key}."))
        else:
            default = f"; default `{json.dumps(node['default'])}`" if "default" in node else ""
            parts.append(f"Type: {_type(node)}{default}.\n\n")
            continue
        parts.append("| key | type | default | meaning |\n| --- | --- | --- | --- |\n" + "\n".join(rows) + "\n\n")
    return "".join(parts).rstrip() + "\n"


if __name__ == "__main__":
    import yaml

    text = render(yaml.safe_load((ROOT / "config" / "schema.yaml").read_text()))
    (ROOT / "config" / "README.md").write_text(text)
