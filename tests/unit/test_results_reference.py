"""results/README.md is what the schemas say."""

from __future__ import annotations

from pathlib import Path

from neuronlab.results_reference import TABLES, render
from neuronlab.schemas import SCHEMAS

ROOT = Path(__file__).resolve().parents[2]


def test_the_reference_is_in_step_with_the_schemas():
    assert (ROOT / "results" / "README.md").read_text() == render(), (
        "run PYTHONPATH=workflow_scripts python workflow_scripts/neuronlab/results_reference.py"
    )


def test_every_schema_belongs_to_a_path():
    assert {schema for _, _, schema in TABLES} == SCHEMAS.keys()
