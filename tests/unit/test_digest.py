"""The code digest changes with what can change a result, and with nothing else."""

from __future__ import annotations

import pytest
from neuronlab.digest import code_digest, reachable

SCRIPT = "from neuronlab.jobs import job\nfrom neuronlab import weights\nweights.measure(job)\n"
MODULES = {
    "__init__.py": "",
    "jobs.py": '"""Frame."""\nimport os\n\ndef job():\n    """Doc."""\n    return os.getpid()  # comment\n',
    "weights.py": "import neuronlab.deep.inner as inner\n\ndef measure(x):\n    return inner.f(x)\n",
    "deep/__init__.py": "",
    "deep/inner.py": "def f(x):\n    from neuronlab.lazy import g\n    return g(x) + 1\n",
    "lazy.py": "def g(x):\n    return 2\n",
    "unrelated.py": "x = 1\n",
}


@pytest.fixture
def root(tmp_path):
    for name, text in MODULES.items():
        path = tmp_path / "neuronlab" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "script.py").write_text(SCRIPT)
    return tmp_path


def edited(root, name, old, new):
    path = root / "neuronlab" / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return code_digest(root / "script.py", root)


def test_reaches_through_packages_and_late_imports(root):
    names = [path.relative_to(root).as_posix() for path in reachable(root / "script.py", root)]
    assert names[0] == "script.py"
    assert set(names[1:]) == {f"neuronlab/{name}" for name in MODULES} - {"neuronlab/unrelated.py"}


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("weights.py", "inner.f(x)", "inner.f(x) * 2"),
        ("lazy.py", "return 2", "return 3"),
        ("jobs.py", "os.getpid()", "os.getppid()"),
    ],
)
def test_code_edits_change_it_and_reverting_restores_it(root, name, old, new):
    before = code_digest(root / "script.py", root)
    assert edited(root, name, old, new) != before
    assert edited(root, name, new, old) == before


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("jobs.py", "# comment", "# another comment"),
        ("jobs.py", '"""Doc."""', '"""Other words."""'),
        ("jobs.py", '"""Frame."""\n', ""),
        ("weights.py", "\n\ndef", "\n\n\n\ndef"),
        ("unrelated.py", "x = 1", "x = 2"),
    ],
)
def test_comments_docstrings_layout_and_other_modules_do_not(root, name, old, new):
    before = code_digest(root / "script.py", root)
    assert edited(root, name, old, new) == before


def test_the_script_itself_counts(root):
    before = code_digest(root / "script.py", root)
    (root / "script.py").write_text(SCRIPT.replace("(job)", "(job, 1)"))
    assert code_digest(root / "script.py", root) != before


def test_a_clone_elsewhere_has_the_same_digest(root, tmp_path_factory):
    clone = tmp_path_factory.mktemp("clone")
    for path in root.rglob("*.py"):
        target = clone / path.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(path.read_text())
    assert code_digest(clone / "script.py", clone) == code_digest(root / "script.py", root)


def test_relative_imports_are_refused(root):
    (root / "neuronlab" / "lazy.py").write_text("from . import weights\n")
    with pytest.raises(ValueError, match="relative imports"):
        code_digest(root / "script.py", root)
