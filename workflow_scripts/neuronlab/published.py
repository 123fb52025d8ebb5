"""Published rho, LogitVar and norm of a model's neurons against ours: the first look of somebody with the weights.

Same weights, same measures: published and ours should agree to about 1e-4, the precision of the studies' float32. Our
values are computed for the published neurons as their study did: rho at its k, LogitVar with the ids that only pad the
vocabulary where it took them in (METHODS 0.3, 0.6, B1). Neurons of which only the ids were published get rows with our
values alone; those without a k get no rho.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from neuronlab.models import Model, ModelSpec, load_model
from neuronlab.null_space import null_space_shares, spectrum
from neuronlab.published_models import VALUES, PublishedModel, published_models, published_name
from neuronlab.schemas import SCHEMAS
from neuronlab.tables import Provenance, write_table
from neuronlab.weights import norms, profile_moments, unit_columns

MEASURES = ("rho", "logit_var", "norm")
COLUMNS = {"model": pl.String, "study": pl.String, "list": pl.String, "layer": pl.Int32, "neuron": pl.Int32} | {
    "k": pl.Int32,
    "rho": pl.Float64,
    "logit_var": pl.Float64,
    "norm": pl.Float64,
}


class PublishedError(ValueError):
    """A comparison with values that were published for another model, or for none."""


def published_values(key: str) -> pl.DataFrame:
    """Published neurons of a model: study, list, layer, neuron, k, rho, logit_var, norm; nulls where not published.

    Raises:
        PublishedError: if there is no such model.
    """
    values = pl.read_csv(VALUES, schema=COLUMNS).filter(pl.col("model") == key).drop("model")
    if values.is_empty():
        raise PublishedError(f"no values are published for '{key}'; known are {', '.join(published_models())}")
    return values


def measure_published(model: Model, values: pl.DataFrame, *, include_padded: bool) -> dict[str, list[float | None]]:
    """Our rho, LogitVar and norm of the neurons in `values`, in its order; None where they cannot be had."""
    readout = model.readout()
    directions, columns = spectrum(readout), unit_columns(readout, include_padded)
    ours: dict[str, list[float | None]] = {measure: [None] * len(values) for measure in MEASURES}
    for (layer, k), rows in values.with_row_index("row").group_by("layer", "k", maintain_order=True):
        w = model.w_out(int(layer))[rows["neuron"].to_list()]
        found: dict[str, Sequence[float]] = {
            "logit_var": profile_moments(w, columns).logit_var,
            "norm": norms(w),
        }
        if k is not None:
            found["rho"] = null_space_shares(w, directions, [int(k)])[0]
        for measure, numbers in found.items():
            for row, number in zip(rows["row"], numbers, strict=True):
                ours[measure][row] = None if np.isnan(number) else float(number)
    return ours


def comparison(model: Model, published: PublishedModel, values: pl.DataFrame) -> pl.DataFrame:
    """published.parquet: three rows per neuron and study, or two where no k is known.

    Raises:
        PublishedError: if the loaded model has another size than the published one.
    """
    if (model.d_model, model.n_layers) != (published.d_model, published.n_layers):
        raise PublishedError(
            f"{model.spec.where}: '{published.key}' has d = {published.d_model} and {published.n_layers} layers, this "
            f"model has d = {model.d_model} and {model.n_layers}: it is another one; rename it, or correct its name"
        )
    ours = measure_published(model, values, include_padded=published.include_padded)
    study = pl.col("study") + pl.when(pl.col("list") == "entropy").then(pl.lit("")).otherwise(": " + pl.col("list"))
    frames = [
        values.select(
            study.alias("study"),
            "layer",
            "neuron",
            "k" if measure == "rho" else pl.lit(None).alias("k"),
            pl.lit(measure).alias("measure"),
            pl.col(measure).alias("published"),
            pl.Series("ours", ours[measure], dtype=pl.Float64),
        ).filter((pl.lit(measure) != "rho") | pl.col("k").is_not_null())
        for measure in MEASURES
    ]
    rows = pl.concat([frame.cast({"k": pl.Int32}) for frame in frames])
    return rows.with_columns((pl.col("ours") / pl.col("published") - 1).alias("relative_error")).select(
        list(SCHEMAS["published"])
    )


def compare_published(*, model: ModelSpec, published: str | Path, provenance: Provenance | None = None) -> None:
    """Rule `compare_published`: the table of a model that `published_name` recognises.

    Raises:
        PublishedError: for any other model.
    """
    entry = {"source": model.source, "path": model.path, "name": model.name, "revision": model.revision}
    key = published_name(entry, model.key)
    if key is None:
        raise PublishedError(
            f"{model.where}: nothing is published for this model; known are {', '.join(published_models())}"
        )
    loaded = load_model(model)
    write_table(comparison(loaded, published_models()[key], published_values(key)), published, "published", provenance)
