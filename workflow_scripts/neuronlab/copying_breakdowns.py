"""Labels broken down: by class under the clean model, by relation, and by the dose of a clamped set."""

from __future__ import annotations

import numpy as np
import polars as pl
from jaxtyping import Bool, Float64, Int8

from neuronlab.conversions import score_counts
from neuronlab.copying_frames import frame_of
from neuronlab.decoded_labels import Decoded
from neuronlab.fact_bootstrap import FactBootstrap, at, divide, without_ends
from neuronlab.schemas_knowledge import COPYING_SET, LABELS
from neuronlab.transitions import cells
from neuronlab.variant_groups import CLEAN

Array = np.ndarray
ALL = "all"  # the subset of all facts
RELATION_MEASURES = ("ck", "nd", "pk", "gts", "cr_ck")


class SubsetError(ValueError):
    """A subset of the facts with a name that is taken."""


def count_classes(
    clean: Int8[Array, " prompts"], empty: Bool[Array, " prompts"], prompts: pl.DataFrame, bootstrap: FactBootstrap
) -> pl.DataFrame:
    """Table "class_counts": labels under the clean model, of all facts and of each subset.

    Args:
        empty: prompts with an empty answer; their label is ND.

    Raises:
        SubsetError: a subset named like all of them.
    """
    subset = prompts["subset"]
    names = sorted(subset.drop_nulls().unique())
    if ALL in names:
        raise SubsetError(f"facts: column 'subset' holds '{ALL}', the name of all facts together; name it otherwise")
    rows = []
    for name in (ALL, *names):
        member = np.ones(len(clean), bool) if name == ALL else (subset == name).fill_null(False).to_numpy()
        part = bootstrap.within(member)
        counted = np.eye(3)[clean[member]]
        share = part.share(counted, np.ones_like(counted))
        for place, label in enumerate(LABELS):
            row = {"subset": name, "label": label, "n_prompts": len(counted), "n_facts": part.n_facts}
            silent = int((counted[:, place] * empty[member]).sum())
            rows.append(row | {"n": int(counted[:, place].sum()), "n_empty": silent} | at("share", share, place))
    return frame_of(rows, "class_counts")


def score_relations(
    labels: Int8[Array, "variants prompts"], prompts: pl.DataFrame, selected: pl.DataFrame, bootstrap: FactBootstrap
) -> pl.DataFrame:
    """Table "copying_relations": clean shares, GTS and CR(CK) of each relation.

    Args:
        selected: variants of selections under the one replacement that is shown.
    """
    rows = []
    relation = prompts["relation"].to_numpy().astype(str)
    parts = [(str(name), relation == name) for name in np.unique(relation)]
    resampled = [(name, member, bootstrap.within(member)) for name, member in parts]
    for variant, chosen, replacement in selected.select("variant", "set", "replacement").iter_rows():
        cell = np.eye(9)[cells(labels, variant)]
        for name, member, part in resampled:
            sums = part.sums(cell[member])
            counted, eligible = relation_parts(sums.sum(axis=0, keepdims=True))
            found = part.shares(relation_parts, sums)
            for place, measure in enumerate(RELATION_MEASURES):
                row = {"set": chosen, "replacement": replacement, "relation": name, "measure": measure}
                row |= {"n_eligible": int(eligible[0, place]), "n": int(counted[0, place]), "n_facts": part.n_facts}
                rows.append(row | at("value", found, place))
    return frame_of(rows, "copying_relations")


def relation_parts(
    sums: Float64[Array, "rows nine"],
) -> tuple[Float64[Array, "rows measures"], Float64[Array, "rows measures"]]:
    """What `RELATION_MEASURES` count, and of how many, from sums over the nine cells."""
    counted, eligible = score_counts(sums)
    before, total = sums.reshape(-1, 3, 3).sum(axis=2), np.repeat(eligible[:, :1], 3, axis=1)
    moved = [0, 2]  # GTS and CR(CK) in `conversions.MEASURES`
    return (
        np.concatenate([before, counted[:, moved]], axis=1),
        np.concatenate([total, eligible[:, moved]], axis=1),
    )


def score_doses(found: Decoded, clamped: pl.DataFrame, bootstrap: FactBootstrap) -> pl.DataFrame:
    """Table "copying_doses": shares of labels and change of the entropy against the dose.

    Intervals for selections and for the clean model, whose dose is missing.

    Args:
        clamped: variants whose sets are clamped, selections and controls, and the clean one to compare with.
    """
    rows = []
    n_prompts = found.labels.shape[1]
    for row in clamped.sort("variant").iter_rows(named=True):
        member = np.eye(3)[found.labels[row["variant"]]]
        change = (found.entropy[row["variant"]] - found.entropy[CLEAN])[:, None]
        if row["kind"] in ("clean", "selection"):
            shares = bootstrap.share(member, np.ones_like(member))
            mean = bootstrap.mean(change)
        else:
            shares, mean = (without_ends(divide(part.sum(axis=0), np.array(n_prompts))) for part in (member, change))
        entry = {name: row[name] for name in (*COPYING_SET, "dose")}
        entry |= {"n_prompts": n_prompts, "n_facts": bootstrap.n_facts}
        for place, label in enumerate(LABELS):
            entry |= at(label.lower(), shares, place)
        rows.append(entry | at("entropy_change", mean, 0))
    return frame_of(rows, "copying_doses")
