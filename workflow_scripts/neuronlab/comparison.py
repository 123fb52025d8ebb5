"""Rule `compare_models`: the surveys of several models or training checkpoints, one below the other."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from neuronlab.tables import Provenance, read_table, write_table

TABLES = {
    "survey_neurons": "comparison_neurons",
    "survey_summary": "comparison_summary",
    "survey_spectrum": "comparison_spectra",
}
COMMIT = re.compile(r"(?=.*[a-f])[0-9a-f]{7,40}")


class ComparisonError(ValueError):
    """Surveys that do not belong to the models of the comparison."""


def compare_models(
    *,
    models: Sequence[str],
    neurons: Sequence[str | Path],
    summaries: Sequence[str | Path],
    spectra: Sequence[str | Path],
    comparison_neurons: str | Path,
    comparison_summary: str | Path,
    comparison_spectra: str | Path,
    provenance: Provenance | None = None,
) -> None:
    """Write the tables "comparison_neurons", "comparison_summary" and "comparison_spectra".

    Args:
        models: as configured, `model` or `model@revision`; their order is that of the rows.
        neurons, summaries, spectra: the survey of each model, in the same order.

    Raises:
        ComparisonError: not one table per model, or a model twice.
        TableError: a table is missing or damaged.
    """
    given = dict(zip(TABLES, (neurons, summaries, spectra), strict=True))
    outputs = (comparison_neurons, comparison_summary, comparison_spectra)
    if len(set(models)) != len(models):
        raise ComparisonError(f"comparisons.<name>.models names a model twice: {', '.join(models)}")
    for name, paths in given.items():
        if len(paths) != len(models):
            raise ComparisonError(f"{len(models)} models, but {len(paths)} tables '{name}': give one for each model")
    for (name, paths), output in zip(given.items(), outputs, strict=True):
        frames = [labelled(read_table(path, name), model) for model, path in zip(models, paths, strict=True)]
        write_table(pl.concat(frames), output, TABLES[name], provenance)


def labelled(frame: pl.DataFrame, model: str) -> pl.DataFrame:
    """A table with the columns `model` and `step` in front."""
    step = training_step(model)
    return frame.select(pl.lit(model).alias("model"), pl.lit(step, dtype=pl.Int64).alias("step"), pl.all())


def training_step(model: str) -> int | None:
    """The training step that a revision names: `step_001024`, `step143000`, `step1000-tokens4B`, `checkpoint-500`.

    That is the number after "step", else the number that the revision ends in. None for a model without revision (the
    end of its training), for a revision without such a number (`main`), and for a commit's hash.
    """
    revision = model.partition("@")[2]
    if COMMIT.fullmatch(revision):
        return None
    found = re.search(r"step[-_]?(\d+)", revision) or re.search(r"(\d+)$", revision)
    return int(found[1]) if found else None
