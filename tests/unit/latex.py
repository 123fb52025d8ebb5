"""Reading LaTeX tables back, and compiling them where pdflatex is installed."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

DOCUMENT = r"""\documentclass{article}
\usepackage[T1]{fontenc}
\usepackage{array,booktabs,graphicx}
\begin{document}
%s
\end{document}
"""


def body_rows(tex: str) -> list[list[str]]:
    """Cells of the rows between \\midrule and \\bottomrule, over all floats, as they are written."""
    rows = []
    for body in re.findall(r"\\midrule\n(.*?)\\bottomrule", tex, flags=re.DOTALL):
        lines = re.sub(r"\\addlinespace(\[2pt\])?", "", body).split("\\\\\n")
        rows += [[cell.strip() for cell in re.split(r"(?<!\\)&", line)] for line in lines if line.strip()]
    return rows


def check_structure(tex: str) -> None:
    """Environments nest, braces pair, and every row has as many cells as the table has columns."""
    stack: list[str] = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", tex):
        if kind == "begin":
            stack.append(name)
        else:
            assert stack.pop() == name
    assert not stack
    plain = re.sub(r"\\[\\{}]", "", "\n".join(line.split("%%")[0] for line in tex.splitlines()))
    assert plain.count("{") == plain.count("}")
    for table in re.findall(r"\\begin\{tabular\}(.*?)\\end\{tabular\}", tex, flags=re.DOTALL):
        specification = table.split("\n", 1)[0]
        columns = len(re.findall(r"[lr]|p\{", re.sub(r"@\{\}|>\{.*?\}(?=p\{)|\d\.\d+\\linewidth", "", specification)))
        for row in body_rows(table):
            spans = sum(int(n) - 1 for n in re.findall(r"\\multicolumn\{(\d+)\}", " ".join(row)))
            assert len(row) + spans == columns, row


def compile_tex(folder: Path, files: list[Path]) -> None:
    """Compile a document that takes the files in; skip where there is no pdflatex."""
    if shutil.which("pdflatex") is None:
        pytest.skip("no pdflatex")
    inputs = "\n".join(rf"\input{{{path.as_posix()}}}" for path in files)
    (folder / "paper.tex").write_text(DOCUMENT % inputs, encoding="utf-8")
    # Draft mode typesets everything and writes no PDF: no fonts have to be made.
    command = ["pdflatex", "-draftmode", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    found = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", timeout=120)
    assert found.returncode == 0, found.stdout[-3000:]
    log = (folder / "paper.log").read_text(encoding="utf-8", errors="replace")
    assert "Missing character" not in log
    assert "Overfull" not in log, re.findall(r"Overfull.*", log)
