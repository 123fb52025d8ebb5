"""Only what is stale is recomputed: edit modules in a copy of the code and see which rules a dry run plans.

What should go stale is taken from the modules that were really loaded in a finished run (the jobs' logs list them),
not from the import graph that the digest follows.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from neuronlab.digest import code_digest, reachable
from project import Project

pytestmark = pytest.mark.slow

# Packages' own __init__ files compute nothing, and these modules serve the parsing of the workflow and nothing else.
NO_RULE = {"neuronlab.configuration", "neuronlab.digest", "neuronlab.config_reference", "neuronlab.results_reference"}

# Loaded where the configuration asks for it; its edits make every rule stale that could be asked.
BY_CONFIGURATION = {"neuronlab.kernels.triton_kernel"}


def with_a_line_more(text: str) -> str:
    return text + "\n_EDITED = True\n"


def loaded_modules(project: Project) -> dict[str, set[str]]:
    """Rule -> modules of the library that its jobs loaded, from the logs."""
    loaded: dict[str, set[str]] = {}
    for log in (project.directory / "results" / "logs").rglob("*.log"):
        text = log.read_text()
        rule = text.split(" ", 1)[0]
        modules = re.search(r"^modules: (.*)$", text, re.MULTILINE)
        assert modules, f"{log} lists no modules"
        loaded.setdefault(rule, set()).update(modules.group(1).split())
    return loaded


def digests(project: Project) -> dict[str, str]:
    """Rule -> digest of the code that its script reaches, which the rule carries among its parameters."""
    root = project.code / "workflow_scripts"
    return {script.stem: code_digest(script, root) for script in root.glob("*.py")}


def changed_since(before: dict[str, str], project: Project) -> set[str]:
    return {rule for rule, digest in digests(project).items() if digest != before[rule]}


@contextmanager
def edited(path: Path, change) -> Iterator[None]:
    before, times = path.read_bytes(), path.stat()
    path.write_text(change(before.decode()))
    try:
        yield
    finally:
        path.write_bytes(before)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def module_files(project: Project) -> dict[str, Path]:
    root = project.code / "workflow_scripts"
    files = {
        ".".join(path.relative_to(root).with_suffix("").parts): path for path in (root / "neuronlab").rglob("*.py")
    }
    return {name: path for name, path in sorted(files.items()) if not name.endswith("__init__")}


def test_the_digest_of_a_rule_covers_exactly_the_modules_that_its_jobs_load(finished):
    loaded, files = loaded_modules(finished), module_files(finished)
    assert {"measure_neurons", "ablate_neurons", "draw_norm_logitvar"} <= loaded.keys()
    root = finished.code / "workflow_scripts"
    wrong = {}
    for rule, modules in loaded.items():
        covered = set(reachable(root / f"{rule}.py", root))
        reached, needed = {module for module, path in files.items() if path in covered}, modules & files.keys()
        if rule == "ablate_neurons":
            assert reached >= BY_CONFIGURATION
        if reached - BY_CONFIGURATION != needed - BY_CONFIGURATION:
            wrong[rule] = {"stale in vain": sorted(reached - needed), "missed": sorted(needed - reached)}
    assert not wrong
    assert not NO_RULE & set().union(*loaded.values())


def test_an_edit_makes_stale_exactly_the_rules_that_load_the_module(finished):
    """A dry run plans the rules that loaded an edited module, and what follows from them.

    Of the many sets of rules that modules reach, every thirtieth gets an edit; and so do, at once, the modules that no
    rule loads.
    """
    loaded, before = loaded_modules(finished), digests(finished)
    rules_of = {
        module: frozenset(rule for rule, modules in loaded.items() if module in modules)
        for module in module_files(finished)
    }
    representatives = {rules: module for module, rules in reversed(rules_of.items()) if rules}
    chosen = sorted(representatives.values())[::30]
    assert len(chosen) > 3
    for module in chosen:
        expected = rules_of[module]
        with edited(module_files(finished)[module], with_a_line_more):
            assert changed_since(before, finished) & loaded.keys() == expected, module
            assert finished.planned() == finished.planned("--forcerun", *sorted(expected)), module
    with ExitStack() as edits:
        for module, rules in rules_of.items():
            if not rules and module not in BY_CONFIGURATION:
                edits.enter_context(edited(module_files(finished)[module], with_a_line_more))
        assert not changed_since(before, finished) & loaded.keys()
        assert finished.planned() == {}
    assert changed_since(before, finished) == set()  # every edit was reverted
    assert finished.planned() == {}


def test_comments_docstrings_layout_and_touching_make_nothing_stale(finished):
    path = module_files(finished)["neuronlab.tables"]
    with edited(path, lambda text: '"""Another docstring."""\n# and a comment\n\n' + text.split('"""', 2)[2]):
        assert finished.planned() == {}
    for path in module_files(finished).values():
        path.touch()
    for script in (finished.code / "workflow_scripts").glob("*.py"):
        script.touch()
    assert finished.planned() == {}


def test_a_script_belongs_to_its_rule_alone(finished):
    with edited(finished.code / "workflow_scripts" / "align_neurons.py", lambda text: text + "\nprint()\n"):
        assert finished.planned() == {"align_neurons": 1, "draw_singular_values": 1, "draw_overview": 1}


def test_a_parameter_makes_stale_what_it_enters(finished):
    config = finished.config()
    changed = finished.config()
    changed["ablation"]["resamples"] = 101
    finished.configure(changed)
    try:
        planned = finished.planned()
    finally:
        finished.configure(config)
    assert {"summarize_effects", "ablate_synthetic"} <= planned.keys()
    assert {"ablate_neurons", "verify_ablation", "measure_neurons", "make_repeats", "draw_verification"}.isdisjoint(
        planned
    )
    assert finished.planned() == {}


def test_new_weights_make_their_model_stale(finished, tiny_directory):
    weights = tiny_directory / "model.safetensors"
    before, times = weights.read_bytes(), weights.stat()
    damaged = bytearray(before)
    damaged[-4] ^= 1
    weights.write_bytes(damaged)
    try:
        planned = finished.planned()
        assert {"measure_neurons", "ablate_neurons", "measure_activations"} <= planned.keys()
    finally:
        weights.write_bytes(before)
        os.utime(weights, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert finished.planned() == {}
