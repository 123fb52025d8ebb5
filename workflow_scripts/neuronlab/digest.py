"""A digest of the code that a script reaches: what makes a rule stale when its science changes.

Snakemake compares a rule's inputs and parameters with those of the last run, but never looks into the
modules that a script imports. Every rule therefore carries `code=library("<script>")` in its parameters,
a hash over the script and every module of this package that it reaches by imports, directly or not. The
hash is taken over syntax trees without docstrings, comments and layout, so that only edits which can
change a result change it.
"""

from __future__ import annotations

import ast
import hashlib
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

PACKAGE = "neuronlab"
ROOT = Path(__file__).resolve().parent.parent
BLOCKS = ("body", "orelse", "finalbody", "handlers", "cases")  # where statements hold statements


def _statements(tree: ast.Module) -> Iterator[ast.AST]:
    """The tree and all statements in it: no expression holds an import or a docstring, and most nodes are some."""
    stack: list[ast.AST] = [tree]
    while stack:
        node = stack.pop()
        yield node
        for block in BLOCKS:
            stack.extend(getattr(node, block, ()))


def _strip_docstrings(tree: ast.Module) -> ast.Module:
    for node in _statements(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            text = first.value if isinstance(first, ast.Expr) else None
            if isinstance(text, ast.Constant) and isinstance(text.value, str):
                node.body = node.body[1:] or [ast.Pass()]
    return tree


def _module_path(name: str, root: Path) -> Path | None:
    """The file of module `name` of the package below `root`, if there is one."""
    base = os.path.join(root, *name.split("."))  # pathlib is slow, and there are thousands of names
    for candidate in (f"{base}.py", os.path.join(base, "__init__.py")):
        if os.path.isfile(candidate):
            return Path(candidate)
    return None


def _imported_names(tree: ast.Module) -> set[str]:
    """Dotted names of this package that a tree imports; `from a import b` yields both a and a.b."""
    names: set[str] = set()
    for node in _statements(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.ImportFrom):
            raise ValueError("relative imports are not followed: write the module's full name")
    return {name for name in names if name.split(".")[0] == PACKAGE}


@cache
def _parsed(path: Path, stamp: tuple[int, int]) -> tuple[str, frozenset[str]]:
    tree = ast.parse(path.read_bytes(), filename=str(path))
    imported = _imported_names(tree)
    # Importing a.b.c also runs a/__init__.py and a/b/__init__.py.
    parents = {name.rsplit(".", depth)[0] for name in imported for depth in range(1, name.count(".") + 1)}
    return ast.dump(_strip_docstrings(tree), include_attributes=False), frozenset(imported | parents)


def _read(path: Path) -> tuple[str, frozenset[str]]:
    status = path.stat()
    return _parsed(path, (status.st_mtime_ns, status.st_size))


def reachable(script: Path, root: Path = ROOT) -> list[Path]:
    """The script and every module of the package that it reaches by imports, sorted, the script first."""
    seen: dict[Path, None] = {}
    names: set[str] = set()
    queue = [script]
    while queue:
        path = queue.pop()
        if path in seen:
            continue
        seen[path] = None
        new = _read(path)[1] - names
        names |= new
        modules = (_module_path(name, root) for name in new)
        queue.extend(module for module in modules if module is not None)
    return [script, *sorted(path for path in seen if path != script)]


def code_digest(script: str | Path, root: Path = ROOT) -> str:
    """Hash (16 hexadecimal digits) of the code that `script` reaches; equal for edits of comments and layout.

    Raises:
        FileNotFoundError: if the script does not exist.
        SyntaxError: if a reached module does not parse.
    """
    script = Path(script)
    digest = hashlib.sha256()
    for path in reachable(script, root):
        # Relative names, so that a clone elsewhere has the same digests.
        name = path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name
        digest.update(f"{name}\0{_read(path)[0]}\0".encode())
    return digest.hexdigest()[:16]
