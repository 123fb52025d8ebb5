"""Fixtures of the workflow tests: one finished small run, shared by the tests that only look at it."""

from __future__ import annotations

from pathlib import Path

import pytest
from project import Project, copy_code, make_facts, make_text, small_config


@pytest.fixture(scope="session")
def tiny_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random GPT-2 in Hugging Face format."""
    import tiny_models

    return tiny_models.make_directory(tmp_path_factory.mktemp("models") / "gpt2", "gpt2")


@pytest.fixture
def project(tmp_path: Path, tiny_directory: Path) -> Project:
    """A fresh working directory with the small configuration."""
    fresh = Project(tmp_path)
    make_text(tmp_path / "words.txt")
    make_facts(tmp_path / "facts.csv")
    fresh.configure(small_config(tiny_directory))
    return fresh


@pytest.fixture(scope="session")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scratch copy of the code, for runs that last through several tests, and for edits that are taken back."""
    return copy_code(tmp_path_factory.mktemp("code") / "copy")


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_directory: Path, code: Path) -> Project:
    """A working directory in which the small configuration has run to its end. Look, don't touch.

    It runs from a copy of the code, which the staleness test edits and restores.
    """
    directory = tmp_path_factory.mktemp("finished")
    done = Project(directory, code)
    make_text(directory / "words.txt")
    make_facts(directory / "facts.csv")
    done.configure(small_config(tiny_directory))
    done.run(warm=True)
    return done
