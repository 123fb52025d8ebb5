"""docs/methods.md: what the repository refers to is there, and what it refers to itself exists."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from itertools import product
from pathlib import Path

import pytest
import yaml
from neuronlab.schemas import SCHEMAS

ROOT = Path(__file__).resolve().parents[2]
METHODS = ROOT / "docs" / "methods.md"
FOLDERS = ("benchmarks", "config", "docs", "profiles", "rules", "tests", "workflow_scripts")
KINDS = {".py", ".md", ".yaml", ".smk", ".rst"}

# A label: a defect or several ("B defects 2, 3 and 4"), a section with steps ("B2, steps 3 and 4"), a study.
NUMBERS = r"\d+\b(?!\.\d)(?:(?:, | and | to )\d+\b(?!\.\d))*"
DEFECT = rf"[A-D] defects?(?: {NUMBERS})?"
LABEL = rf"(?:{DEFECT}|(?:0\.\d|[A-D]\d)\b(?:,? steps? {NUMBERS})?|[A-D]\b)"
REFERENCE = re.compile(rf"\bMETHODS ({LABEL}(?:(?:[,;] and |[,;] | and ){LABEL})*)")
BARE = re.compile(rf"\b[A-D] defects? {NUMBERS}")
NAME = re.compile(r"_([a-d])_defect_(\d+)?")
# What only looks like one: a label that is missing or set apart, so that nobody would find it by searching.
BROKEN = re.compile(r"\bMETHODS\b(?! (?:0\.\d|[A-D]\d?\b))|\b[A-D], defects?\b|\(defects? \d|\bDESIGN\b")


def files() -> Iterator[Path]:
    for folder in FOLDERS:
        yield from (path for path in sorted((ROOT / folder).rglob("*")) if path.suffix in KINDS and path.is_file())
    yield from (path for path in sorted(ROOT.iterdir()) if path.name == "Snakefile" or path.suffix == ".md")
    yield ROOT / "results" / "README.md"


@cache
def prose(path: Path) -> str:
    """What people read of a file: of Python, comments and strings; a line's end is a space."""
    text = path.read_text()
    if not re.search("METHODS|DESIGN|defect", text):
        return ""  # no reference; most files
    if path.suffix == ".py":
        kinds = (tokenize.COMMENT, tokenize.STRING)
        found = [t.string for t in tokenize.generate_tokens(io.StringIO(text).readline) if t.type in kinds]
        text = "\n".join(part.lstrip("#") for part in found)
    return re.sub(r"\s*\n\s*#?\s*", " ", re.sub(r"`METHODS`", "", text))


def definitions() -> set[str]:
    """Sections ("A3"), studies ("A"), steps ("B2, step 3") and defects ("B defect 2") of docs/methods.md."""
    found: set[str] = set()
    section = ""
    for line in METHODS.read_text().splitlines():
        if heading := re.match(r"#{2,3} ([A-D] defects|[0A-D](?:\.?\d)?)\b", line):
            section = heading[1]
            found.add(section)
        elif section.endswith("defects") and (row := re.match(r"\| (\d+) \|", line)):
            found.add(f"{section[0]} defect {row[1]}")
        elif step := re.match(r"(\d)\. ", line):
            found.add(f"{section}, step {step[1]}")
    return found


def numbers(text: str) -> list[int]:
    """Of "2, 3 and 5 to 7": 2, 3, 5, 6, 7."""
    ranges = re.sub(r"(\d+) to (\d+)", lambda m: ", ".join(map(str, range(int(m[1]), int(m[2]) + 1))), text)
    return [int(number) for number in re.findall(r"\d+", ranges)]


def labels(text: str) -> set[str]:
    """All labels that a text refers to, as `definitions` names them."""
    found = [label for match in REFERENCE.finditer(text) for label in re.findall(LABEL, match[1])]
    found += BARE.findall(text)
    named = {f"{letter.upper()} defect{f' {number}' if number else 's'}" for letter, number in NAME.findall(text)}
    for label in found:
        if "defect" in label:
            rest = numbers(label)
            named |= {f"{label[0]} defect {number}" for number in rest} or {f"{label[0]} defects"}
        else:
            section, *steps = re.split(r",? steps? ", label)
            named |= {section, *(f"{section}, step {number}" for step in steps for number in numbers(step))}
    return named


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("(METHODS A2, A3, 0.6).", {"A2", "A3", "0.6"}),
        ("METHODS B2, steps 3 and 4; B3).", {"B2", "B2, step 3", "B2, step 4", "B3"}),
        ("(METHODS B3, B defect 10, 0.6):", {"B3", "B defect 10", "0.6"}),
        ("METHODS C defects 1 to 2, and B defects 2, 5", {"C defect 1", "C defect 2", "B defect 2", "B defect 5"}),
        ("METHODS D: a study. A 5.", {"D"}),
        ("def test_x_c_defect_6(): test_b_defect_14_y", {"C defect 6", "B defect 14"}),
    ],
)
def test_references_are_understood(text: str, expected: set[str]) -> None:
    assert labels(text) == expected


def test_every_reference_is_a_section_or_a_defect() -> None:
    there, used = definitions(), {}
    for path in files():
        text = prose(path)
        if text and path.suffix == ".py":
            names = [node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)]
            text += " " + " ".join(names)
        if path not in (METHODS, Path(__file__).resolve()):
            used |= dict.fromkeys(labels(text), path)
    assert len(used) > 60
    missing = {label: str(path.relative_to(ROOT)) for label, path in used.items() if label not in there}
    assert not missing
    assert labels(prose(METHODS)) <= there


def test_references_have_one_form() -> None:
    own = Path(__file__).resolve()
    found = {
        str(path.relative_to(ROOT)): match[0]
        for path in files()
        if path != own and (match := BROKEN.search(prose(path)))
    }
    assert not found, 'write "METHODS A3" or "METHODS B defect 2"'


def test_sections_are_those_of_the_papers() -> None:
    expected = {f"0.{i}" for i in range(1, 7)} | {f"{letter} defects" for letter in "ABCD"}
    for letter, first, last in (("A", 0, 7), ("B", 0, 6), ("C", 1, 5), ("D", 1, 2)):
        expected |= {f"{letter}{i}" for i in range(first, last + 1)}
    assert expected <= definitions()
    for letter, count in (("A", 16), ("B", 17), ("C", 8), ("D", 4)):
        found = {label for label in definitions() if label.startswith(f"{letter} defect ")}
        assert found == {f"{letter} defect {i}" for i in range(1, count + 1)}


def mentions() -> set[str]:
    """What stands between backticks, with braces multiplied out: `t.{a,b}` is t.a and t.b."""
    found = set()
    for text in re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", METHODS.read_text(), flags=re.DOTALL)):
        parts = [part[1:-1].split(",") if part.startswith("{") else [part] for part in re.split(r"(\{[^}]*\})", text)]
        found |= {"".join(choice) for choice in product(*parts)}
    return found


def test_files_exist() -> None:
    known = {path.name for path in (ROOT / "tests").rglob("test_*.py")}
    package = ROOT / "workflow_scripts" / "neuronlab"
    named = {name.partition("::")[0] for name in mentions()}
    named = {name for name in named if re.fullmatch(r"[\w/]+(\.py|\.csv|/)", name)}
    tests = {name for name in named if name.startswith("test_")}
    assert len(tests) > 50
    assert not tests - known
    assert not [name for name in named - tests if not (package / name).exists()]


def test_named_tests_exist() -> None:
    named = {name for name in mentions() if "::" in name}
    files = {name.partition("::")[0] for name in named}
    found = {
        f"{path.name}::{function}"
        for path in (ROOT / "tests").rglob("test_*.py")
        if path.name in files
        for function in re.findall(r"^def (\w+)\(", path.read_text(), flags=re.MULTILINE)
    }
    assert len(named) > 80
    assert not named - found


def test_every_defect_names_a_test_or_says_that_there_is_none() -> None:
    rows = re.findall(r"^\| \d+ \| [^|]* \| [^|]* \| ([^|]*) \|$", METHODS.read_text(), flags=re.MULTILINE)
    assert len(rows) == 16 + 17 + 8 + 4
    unnamed = [row for row in rows if "::" not in row]
    assert unnamed == ["no test"] * 2
    assert not [row for row in rows if re.search(r"`test_\w+\.py`", row)]


def config_keys() -> set[str]:
    """`a.b` of config/schema.yaml; what stands in for a name (`texts.<name>.counts`) is left out."""
    found: set[str] = set()

    def walk(node: dict, path: str) -> None:
        found.add(path)
        for key, child in node.get("properties", {}).items():
            walk(child, f"{path}.{key}".lstrip("."))
        if isinstance(node.get("additionalProperties"), dict):
            walk(node["additionalProperties"], path)

    walk(yaml.safe_load((ROOT / "config" / "schema.yaml").read_text()), "")
    return found


def test_columns_and_keys_exist() -> None:
    keys = config_keys()
    dotted = {name for name in mentions() if re.fullmatch(r"[a-z_]+(\.[a-z_]+)+", name)}
    dotted = {name for name in dotted if not name.endswith((".py", ".csv", ".md"))}
    columns = {f"{table}.{column}" for table, schema in SCHEMAS.items() for column in schema}
    assert len(dotted & columns) > 80
    assert not dotted - columns - keys
