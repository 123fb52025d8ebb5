"""Rule `read_facts`: a knowledge base as tables "facts" and "relations" (METHODS B2).

A fact is a (subject, relation) pair with one object. Its query is what a model continues: a statement without its
object. Groups of relations are about the same kind of thing, so that an answer which occurs in two groups gives away
which of them was asked about (`answer_filters`). Three sources:

* `demo`: the demo world's facts. All five relations are about the same people, hence one group: with a group for each,
  every subject would occur in other groups.
* `pararel`: study B's edition of ParaRel. Subject, relation and object are taken as they stand in the statement; its
  own column `query` belongs to another wording in most rows ("Harare, the capital of").
* `file`: a table of one's own.

The same (subject, relation) pair twice would be one prompt counted as two independent ones. A triple that is repeated
is used once, with a warning; a pair with two objects is refused, except in ParaRel, where some relations have several
true objects ("shares a border with") and the first one stands.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from neuronlab.fact_files import ROW, FactError, read_cells, refuse_empty_cells
from neuronlab.fact_relations import refuse_two_rows, relation_details, relations_table, some, with_groups
from neuronlab.schemas import SCHEMAS
from neuronlab.tables import Provenance, read_table, write_table

FACTS = [name for name in SCHEMAS["facts"] if name != "fact"]
DEMO_GROUP = "people"
DEMO_DESCRIPTIONS = {
    "birthplace": "the place where a person was born",
    "language": "the language that a person speaks",
    "instrument": "the instrument that a person plays",
    "deity": "the deity that a person prays to",
    "guild": "the guild that a person works for",
}
PARAREL_FACTS = ("rel_lemma", "statement_subject", "statement_relation", "statement_object")
PARAREL_RELATIONS = {
    "relation": "relation",
    "relation_group_id": "relation_group",
    "object_generation_description": "description",
    "generation_statement_1": "example_query",
    "generation_subject_1": "example_subject",
    "generation_object_1": "example_object",
}
# How ParaRel's editors marked a relation to be deleted, in the place of its description.
PARAREL_DELETED = "SUPPRIMER"


@dataclass(frozen=True)
class KnowledgeBase:
    """Facts in the columns `FACTS`, relations in those of table "relations" but `n_facts`; more columns are ignored."""

    facts: pl.DataFrame
    relations: pl.DataFrame


def read_facts(
    *,
    key: str,
    source: str,
    path: str | Path,
    relations_path: str | Path | None = None,
    facts: str | Path,
    relations: str | Path,
    max_facts: int | None = None,
    seed: int = 0,
    provenance: Provenance | None = None,
) -> None:
    """Write the tables "facts" and "relations" of one knowledge base.

    Args:
        key: its key under `facts` in the configuration, for messages.
        source: "demo", "pararel" or "file".
        path: table of facts; for the demo, its facts.parquet.
        relations_path: table of relations; needed for ParaRel, at choice for a file.
        max_facts: draw only so many facts, without replacement, each as likely; they keep their order.
        seed: of that draw.

    Raises:
        FactError: for facts that cannot be used (see the checks).
    """
    where = f"facts.{key}"
    if source == "demo":
        base = demo_facts(read_table(path, "demo_facts"))
    elif source == "pararel":
        if relations_path is None:
            raise FactError(f"{where}.relations is missing: ParaRel's relations stand in a table of their own; name it")
        base = pararel_facts(path, relations_path, where)
    elif source == "file":
        base = file_facts(path, relations_path, where)
    else:
        raise FactError(f"{where}.source is '{source}'; it must be demo, pararel or file")
    found = base.facts.select(FACTS)
    if found.is_empty():
        raise FactError(f"{where}: '{path}' holds no facts; give a table with at least one row below its heading")
    found = unique_facts(found, path, where, refuse=source != "pararel")
    if max_facts is not None and max_facts < found.height:
        chosen = np.random.default_rng(seed).choice(found.height, size=max_facts, replace=False)
        print(f"{where}.max_facts: {max_facts} of {found.height} facts drawn")
        found = found[np.sort(chosen)]
    used = relations_table(found, base.relations, relations_path or path, where)
    print(f"{where}: {found.height} facts of {used.height} relations in {used['relation_group'].n_unique()} groups")
    lonely = found.group_by("relation").agg(objects=pl.col("object").n_unique()).filter(objects=1)["relation"].sort()
    if len(lonely):
        _warn(
            f"{where}: {len(lonely)} relations have one object only ({some(lonely.to_list())}); unless a model gives "
            "other answers, they have no counter-object and are left out later"
        )
    write_table(found.with_row_index("fact").cast({"fact": pl.Int32}), facts, "facts", provenance)
    write_table(used, relations, "relations", provenance)


def demo_facts(table: pl.DataFrame) -> KnowledgeBase:
    """The demo world's facts: pairs that its documents contradict are the subset `contradicted`, others `held_out`."""
    names = table["relation_id"].unique(maintain_order=True).to_list()
    facts = table.select(
        "subject",
        pl.col("relation_id").alias("relation"),
        pl.lit(DEMO_GROUP).alias("relation_group"),
        pl.col("relation").alias("phrase"),
        "object",
        "query",
        "statement",
        pl.when("contradicted_in_training").then(pl.lit("contradicted")).otherwise(pl.lit("held_out")).alias("subset"),
    )
    return KnowledgeBase(
        facts, relation_details([{"relation": n, "description": DEMO_DESCRIPTIONS.get(n)} for n in names])
    )


def pararel_facts(path: str | Path, relations_path: str | Path, where: str) -> KnowledgeBase:
    """Study B's edition of ParaRel; relations that its editors marked to be deleted are left out.

    Raises:
        FactError: for files of another form, or relations of the .csv that the .xlsx lacks.
    """
    table = read_cells(path, f"{where}.path", PARAREL_FACTS)
    refuse_empty_cells(table, PARAREL_FACTS, path, f"{where}.path")
    kinds = read_cells(relations_path, f"{where}.relations", list(PARAREL_RELATIONS))
    refuse_empty_cells(kinds, ("relation", "relation_group_id"), relations_path, f"{where}.relations")
    kinds = kinds.select(pl.col(old).alias(new) for old, new in PARAREL_RELATIONS.items())
    refuse_two_rows(kinds, relations_path, f"{where}.relations")
    deleted = kinds.filter(pl.col("description").str.starts_with(PARAREL_DELETED))["relation"]
    table = table.select(
        pl.col("statement_subject").alias("subject"),
        pl.col("rel_lemma").alias("relation"),
        pl.col("statement_relation").alias("phrase"),
        pl.col("statement_object").alias("object"),
        pl.lit(None, dtype=pl.String).alias("subset"),
    )
    left_out = table["relation"].is_in(deleted.to_list())
    if left_out.any():
        print(
            f"{where}: {left_out.sum()} facts left out: '{relations_path}' marks {some(deleted.to_list())} as deleted"
        )
    facts = with_groups(_with_statements(table.filter(~left_out)), kinds, relations_path, where)
    return KnowledgeBase(facts, kinds)


def file_facts(path: str | Path, relations_path: str | Path | None, where: str) -> KnowledgeBase:
    """A table of one's own: columns subject, relation, object and, at choice, the others of table "facts".

    What is missing is made up, cell by cell: the phrase is the relation's name, the query is subject and phrase, the
    statement is query and object. Relations without a group anywhere are all in one group, and the filter `overlap`
    drops nothing then.

    Raises:
        FactError: for empty cells, a statement that does not begin with query and object, a relation with two groups,
            or relations that the table of relations lacks.
    """
    table = read_cells(path, f"{where}.path", ("subject", "relation", "object"))
    refuse_empty_cells(table, ("subject", "relation", "object"), path, f"{where}.path")
    optional = ("phrase", "query", "statement", "subset", "relation_group")
    table = table.with_columns(pl.lit(None, dtype=pl.String).alias(c) for c in optional if c not in table.columns)
    table = _with_statements(table.with_columns(phrase=pl.coalesce("phrase", "relation")))
    begins = [
        statement.startswith(f"{query} {object_}")
        for query, object_, statement in table.select("query", "object", "statement").iter_rows()
    ]
    if not all(begins):
        row = begins.index(False)
        raise FactError(
            f"{where}.path: '{path}', row {table[ROW][row]} below the heading: the statement "
            f"'{table['statement'][row]}' does not begin with its query and object, "
            f"'{table['query'][row]} {table['object'][row]}'; correct query, phrase or statement, or leave out the "
            "columns that can be made from the others"
        )
    if relations_path is None:
        kinds = relation_details([{"relation": name} for name in table["relation"].unique(maintain_order=True)])
    else:
        kinds = read_cells(relations_path, f"{where}.relations", ("relation",))
        refuse_empty_cells(kinds, ("relation",), relations_path, f"{where}.relations")
        refuse_two_rows(kinds, relations_path, f"{where}.relations")
        kinds = relation_details(kinds.to_dicts())
    return KnowledgeBase(with_groups(table, kinds, relations_path or path, where), kinds)


def unique_facts(facts: pl.DataFrame, path: str | Path, where: str, *, refuse: bool) -> pl.DataFrame:
    """One fact for every (subject, relation) pair: the first.

    Args:
        refuse: whether pairs with different objects are an error; else they are named in the log.

    Raises:
        FactError: for such a pair, naming both objects.
    """
    pair = ["subject", "relation"]
    first = facts.unique(pair, keep="first", maintain_order=True)
    others = facts.unique([*pair, "object"], keep="first", maintain_order=True)
    if repeated := facts.height - others.height:
        _warn(f"{where}: '{path}' repeats {repeated} facts (same subject, relation and object); each is used once")
    clashes = others.filter(
        ~pl.struct(*pair, "object").is_in(first.select(pl.struct(*pair, "object")).to_series().implode())
    )
    if clashes.is_empty():
        return first
    clash = clashes.row(0, named=True)
    kept = first.filter(subject=clash["subject"], relation=clash["relation"])["object"][0]
    example = f"'{clash['subject']}' ({clash['relation']}): '{kept}' and '{clash['object']}'"
    if refuse:
        raise FactError(
            f"{where}.path: '{path}' gives one subject and relation two objects: {example}"
            f"{f' (and {clashes.height - 1} more)' if clashes.height > 1 else ''}; both facts would have the same "
            "prompt: keep one, or name two relations"
        )
    print(f"{where}: {clashes.height} facts left out, as their subject and relation have an object already: {example}")
    return first


def _with_statements(table: pl.DataFrame) -> pl.DataFrame:
    """`query` and `statement` where they are missing."""
    for column in ("query", "statement"):
        if column not in table.columns:
            table = table.with_columns(pl.lit(None, dtype=pl.String).alias(column))
    table = table.with_columns(query=pl.coalesce("query", pl.format("{} {}", "subject", "phrase")))
    return table.with_columns(statement=pl.coalesce("statement", pl.format("{} {}.", "query", "object")))


def _warn(message: str) -> None:
    print(f"WARNING: {message}", file=sys.stderr)
