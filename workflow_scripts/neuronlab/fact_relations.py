"""Relations of a knowledge base: their details, their groups, and the table "relations"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl

from neuronlab.fact_files import FactError
from neuronlab.schemas import SCHEMAS

DETAILS = ("description", "example_query", "example_subject", "example_object")
ONE_GROUP = "all"  # name of the group where none is given


def relation_details(rows: Sequence[Mapping[str, str | None]]) -> pl.DataFrame:
    """Relations with a column for their group and every detail, missing where a row has none."""
    columns = ("relation", "relation_group", *DETAILS)
    return pl.DataFrame(
        {column: [row.get(column) for row in rows] for column in columns}, schema=dict.fromkeys(columns, pl.String)
    )


def with_groups(facts: pl.DataFrame, relations: pl.DataFrame, path: str | Path, where: str) -> pl.DataFrame:
    """`relation_group` of every fact: as the facts say, else as the table of relations says, else one for all.

    Raises:
        FactError: if relations are missing in the table, or only some of them have a group.
    """
    missing = sorted(set(facts["relation"]) - set(relations["relation"]))
    if missing:
        raise FactError(
            f"{where}.relations: '{path}' lacks relations that the facts name: {some(missing)}; add a row for each"
        )
    if "relation_group" not in facts.columns:
        facts = facts.with_columns(pl.lit(None, dtype=pl.String).alias("relation_group"))
    groups = relations.select("relation", pl.col("relation_group").alias("group"))
    joined = facts.join(groups, on="relation", how="left", maintain_order="left")
    grouped = joined.with_columns(relation_group=pl.coalesce("relation_group", "group")).drop("group")
    bare = grouped["relation_group"].is_null()
    if bare.all():
        print(f"{where}: no relation_group: all relations are one group, and the filter 'overlap' drops nothing")
        return grouped.with_columns(pl.lit(ONE_GROUP).alias("relation_group"))
    if bare.any():
        names = grouped.filter(bare)["relation"].unique().sort().to_list()
        raise FactError(
            f"{where}: relation_group is missing for {some(names)} but given for others; give it for every relation, "
            "or for none"
        )
    return grouped


def relations_table(facts: pl.DataFrame, details: pl.DataFrame, path: str | Path, where: str) -> pl.DataFrame:
    """Table "relations" of the relations that have facts, sorted by group and name.

    Raises:
        FactError: if a relation has facts in two groups.
    """
    counts = facts.group_by("relation").agg(
        pl.col("relation_group").first(), groups=pl.col("relation_group").n_unique(), n_facts=pl.len().cast(pl.Int64)
    )
    if split := counts.filter(pl.col("groups") > 1)["relation"].sort().to_list():
        raise FactError(
            f"{where}: '{path}' puts relations into two groups: {some(split)}; give each of them one relation_group"
        )
    return (
        counts.join(details.select("relation", *DETAILS), on="relation")
        .select(list(SCHEMAS["relations"]))
        .sort("relation_group", "relation")
    )


def refuse_two_rows(relations: pl.DataFrame, path: str | Path, where: str) -> None:
    """Refuse a table of relations that has one twice."""
    twice = relations.filter(relations["relation"].is_duplicated())["relation"].unique().sort().to_list()
    if twice:
        raise FactError(f"{where}: '{path}' has two rows for {some(twice)}; keep one for each relation")


def some(names: Sequence[str]) -> str:
    """The first few of some names, quoted."""
    return ", ".join(f"'{name}'" for name in names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
