"""LaTeX and HTML of tables: any text survives, long and wide tables fit, nothing needs anything from outside."""

from __future__ import annotations

import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from latex import body_rows, check_structure, compile_tex
from neuronlab.html_tables import html_page, html_text
from neuronlab.latex_tables import ACCENTS, COMMANDS, LINES_PER_FLOAT, NATIVE, latex_floats, latex_text
from neuronlab.paper_tables import PaperTableError, write_paper_tables
from neuronlab.table_cells import Row, Table, TableColumn

NASTY = [
    "100 % of A_b & C#1 {x} $5 ~ ^ \\newline",
    "[2pt] at the start, * too, and -- --- `` '' ?` !` ,, << >>",
    'say "no" | <b>bold</b> → ← ± \xd7 \u2212 \u2013 — … “q” \u2018q\u2019 \u03c1 \u03c3 ≤ ≥ µ ° 10⁻⁵',
    "Łódź, Đà Nẵng, Malmö, Straße, Ħ, ṭ, ǎ, 北京, Москва, emoji 🙂",
    "line\nbreak\ttab\rreturn\x00null \N{NO-BREAK SPACE}|",
    "",
    "\\",
    "%",
]


def table(rows: list[tuple[str, ...]], **changes: object) -> Table:
    """A table of two columns, one of them wrapped."""
    columns = (TableColumn("name_1", left=True), TableColumn("50 %", text=True, width=0.6))
    sections = tuple((Row(row),) for row in rows)
    options = {"columns": columns, "sections": sections, "title": "T_1", "caption": "Caption & more", "label": "tab:x"}
    return Table(**options | changes)


def test_any_text_compiles(tmp_path: Path) -> None:
    (tmp_path / "nasty.tex").write_text(latex_floats([table([(text[:20], text) for text in NASTY])]), encoding="utf-8")
    check_structure((tmp_path / "nasty.tex").read_text(encoding="utf-8"))
    compile_tex(tmp_path, [tmp_path / "nasty.tex"])


def test_every_character_that_is_claimed_to_print_does(tmp_path: Path) -> None:
    accented = [f"{base}{mark}" for base in "aoSz" for mark in ACCENTS]
    words = [*sorted(NATIVE), *(key for key in COMMANDS if key.strip()), *accented]
    rows = [("", " x ".join(words[i : i + 12])) for i in range(0, len(words), 12)]
    (tmp_path / "all.tex").write_text(latex_floats([table(rows)]), encoding="utf-8")
    compile_tex(tmp_path, [tmp_path / "all.tex"])


def test_special_characters_are_spelt_out() -> None:
    assert latex_text("5 % & a_b #{}$") == r"5 \% \& a\_b \#\{\}\$"
    assert latex_text("a → b") == r"a $\rightarrow$ b"
    assert latex_text("[x]*") == "{[}x]{*}"
    assert latex_text("---") == "-{}-{}-"
    assert latex_text("ṭ") == r"\d{t}"
    assert latex_text("é\u0301"[0]) == latex_text("e\u0301") == "é"
    assert latex_text("北") == r"{[}U+5317]\allowbreak{}"


@given(st.text())
def test_latex_text_leaves_no_active_character_and_pairs_braces(text: str) -> None:
    written = latex_text(text)
    assert all(character.isascii() or character in NATIVE for character in written)
    rest = re.sub(r"\\textbackslash|\\[%&#_${}]", "", written)
    assert not re.search(r"(?<!\\)[%&#_](?![^$]*\$)|\n\n", re.sub(r"\$[^$]*\$", "", rest))
    assert rest.count("{") == rest.count("}")


def test_a_long_table_goes_on_in_further_floats_without_tearing_a_section(tmp_path: Path) -> None:
    columns = (TableColumn("a"), TableColumn("b"))
    sections = tuple(tuple(Row((f"{s}", f"{r}")) for r in range(9)) for s in range(20))
    tex = latex_floats([table([], columns=columns, sections=sections)])
    floats = tex.split(r"\begin{table}")[1:]
    assert len(floats) > 1
    assert all(len(body_rows(part)) <= LINES_PER_FLOAT and len(body_rows(part)) % 9 == 0 for part in floats)
    assert [(*map(int, row),) for row in body_rows(tex)] == [(s, r) for s in range(20) for r in range(9)]
    assert re.findall(r"\\label\{(.*?)\}", tex) == ["tab:x", *(f"tab:x-{i}" for i in range(2, len(floats) + 1))]
    (tmp_path / "long.tex").write_text(tex, encoding="utf-8")
    compile_tex(tmp_path, [tmp_path / "long.tex"])


def test_a_wide_table_is_scaled_to_the_line(tmp_path: Path) -> None:
    columns = tuple(TableColumn(f"number {i}", f"group {i // 3}" if i > 2 else "") for i in range(30))
    sections = ((Row(tuple("12.34 [11.11, 13.33]" for _ in columns)), Row(("heading over all",))),)
    (tmp_path / "wide.tex").write_text(latex_floats([table([], columns=columns, sections=sections)]), encoding="utf-8")
    check_structure((tmp_path / "wide.tex").read_text())
    compile_tex(tmp_path, [tmp_path / "wide.tex"])  # no overfull line


def test_a_table_without_rows_says_so(tmp_path: Path) -> None:
    empty = table([], empty="Nothing_here.")
    assert "Nothing\\_here." in latex_floats([empty])
    assert "Nothing_here." in html_page([empty])
    (tmp_path / "empty.tex").write_text(latex_floats([empty]), encoding="utf-8")
    compile_tex(tmp_path, [tmp_path / "empty.tex"])


class Cells(HTMLParser):
    """Texts of the body's cells, and whether tags nest."""

    def __init__(self) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.cells: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag != "meta":
            self.stack.append(tag)
        if tag == "td":
            self.cells.append("")
        assert not {"src", "href"} & {name for name, _ in attrs}

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        if "td" in self.stack:
            self.cells[-1] += data


def test_html_nests_needs_nothing_and_gives_every_cell_back() -> None:
    parser = Cells()
    parser.feed(html_page([table([(text[:20], text) for text in NASTY])]))
    assert parser.stack == []
    expected = [cell for text in NASTY for cell in (text[:20], text)]
    for cell, text in zip(parser.cells, expected, strict=True):
        seen = (
            text.replace("\r", "").replace("\t", " ").replace("\n", "↵ ").replace("\x00", "\N{REPLACEMENT CHARACTER}")
        )
        assert cell == seen


@given(st.text())
def test_html_text_lets_no_markup_through(text: str) -> None:
    written = html_text(text)
    assert set(re.findall(r"<[^>]*>?", written)) <= {'<span class="mark">', "</span>"}
    plain = unescape(re.sub(r'<span class="mark">↵</span> ', "\n", written))
    assert plain.replace("\N{REPLACEMENT CHARACTER}", "") == re.sub(
        r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\r\ufffd]", "", text.replace("\t", " ")
    )


def test_paths_say_which_table_in_which_format(tmp_path: Path) -> None:
    tables = {"scores": [table([("a", "b")])]}
    paths = [tmp_path / "new" / "scores.tex", tmp_path / "new" / "scores.html"]
    write_paper_tables(tables, paths)
    assert paths[0].read_text(encoding="utf-8").startswith("% Needs")
    assert paths[1].read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    for wrong in ("scores.pdf", "other.tex"):
        with pytest.raises(PaperTableError, match=r"no such table for papers; there are scores, each as \.tex and"):
            write_paper_tables(tables, [tmp_path / "sub" / "scores.tex", tmp_path / wrong])
    assert not (tmp_path / "sub").exists()
