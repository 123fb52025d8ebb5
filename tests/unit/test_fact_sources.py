"""Knowledge bases: the demo's, ParaRel, files of one's own, and what is refused of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest
from neuronlab.demo.world_files import facts as demo_world_facts
from neuronlab.fact_files import FactError
from neuronlab.fact_sources import DEMO_DESCRIPTIONS, read_facts
from neuronlab.tables import read_table, write_table
from spreadsheets import write_xlsx

KINDS_HEADING = (
    "relation_group_id",
    "relation",
    "object_generation_description",
    "generation_statement_1",
    "generation_subject_1",
    "generation_object_1",
)


def read(folder: Path, path: Path, **options: Any) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The two tables that the rule writes."""
    options = {"key": "mine", "source": "file", "relations_path": None} | options
    written = folder / "facts.parquet", folder / "relations.parquet"
    read_facts(path=path, facts=written[0], relations=written[1], **options)
    return read_table(written[0], "facts"), read_table(written[1], "relations")


def csv(folder: Path, text: str, name: str = "mine.csv") -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


# Files of one's own.


def test_what_a_file_leaves_out_is_made_up(tmp_path: Path) -> None:
    path = csv(tmp_path, "subject,relation,object\nAda,was born in,London\nAda,spoke,English\n")
    facts, relations = read(tmp_path, path)
    assert facts["fact"].to_list() == [0, 1]
    assert facts["query"].to_list() == ["Ada was born in", "Ada spoke"]
    assert facts["statement"].to_list() == ["Ada was born in London.", "Ada spoke English."]
    assert facts["phrase"].to_list() == facts["relation"].to_list()
    assert facts["subset"].null_count() == 2
    assert relations.select("relation", "n_facts").rows() == [("spoke", 1), ("was born in", 1)]
    assert relations["description"].null_count() == 2


def test_relations_without_any_group_are_one_group_so_that_overlap_cannot_empty_the_table(tmp_path: Path) -> None:
    path = csv(tmp_path, "subject,relation,object\nAda,was born in,London\nAda,spoke,English\n")
    assert read(tmp_path, path)[0]["relation_group"].to_list() == ["all", "all"]


def test_given_columns_are_kept_cell_by_cell(tmp_path: Path) -> None:
    text = "subject,relation,object,phrase,query,relation_group,subset\n"
    text += "Ada,born,London,was born in,,people,old\nAda,spoke,English,,The language of Ada is,people,\n"
    facts, _ = read(tmp_path, csv(tmp_path, text))
    assert facts["query"].to_list() == ["Ada was born in", "The language of Ada is"]
    assert facts["statement"].to_list() == ["Ada was born in London.", "The language of Ada is English."]
    assert facts["subset"].to_list() == ["old", None]
    assert facts["relation_group"].to_list() == ["people", "people"]


def test_a_table_of_relations_gives_groups_descriptions_and_examples(tmp_path: Path) -> None:
    path = csv(tmp_path, "subject,relation,object\nAda,born,London\n")
    kinds = tmp_path / "kinds.xlsx"
    write_xlsx(
        kinds,
        [
            ("relation", "relation_group", "description", "example_object"),
            ("born", "people", "a place", "Oslo"),
            ("x",),
        ],
    )
    facts, relations = read(tmp_path, path, relations_path=kinds)
    assert facts["relation_group"].to_list() == ["people"]
    assert relations.rows() == [("born", "people", 1, "a place", None, None, "Oslo")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("subject,relation,object\n", r"facts\.mine: '.*' holds no facts; give a table with at least one row"),
        ("subject,relation,object\nAda,,London\n", r"row 1 below the heading: 'relation' is empty"),
        (
            "subject,relation,object\nAda,born,London\nBo,born,Oslo\nAda,born,Paris\nBo,born,Rome\n",
            r"facts\.mine\.path: '.*' gives one subject and relation two objects: 'Ada' \(born\): 'London' and 'Paris' "
            r"\(and 1 more\)",
        ),
        (
            "subject,relation,object,relation_group\nAda,born,London,a\nBo,born,Oslo,b\n",
            r"puts relations into two groups: 'born'",
        ),
        (
            "subject,relation,object,relation_group\nAda,born,London,a\nBo,lives,Oslo,\n",
            r"relation_group is missing for 'lives' but given for others",
        ),
        (
            "subject,relation,object,statement\nAda,born,London,London saw Ada born.\n",
            r"row 1 below the heading: the statement 'London saw Ada born\.' does not begin with its query and object, "
            r"'Ada born London'",
        ),
    ],
)
def test_facts_that_cannot_be_used_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(FactError, match=message):
        read(tmp_path, csv(tmp_path, text))
    assert not (tmp_path / "facts.parquet").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("relation\nlives\n", r"facts\.mine\.relations: '.*' lacks relations that the facts name: 'born'; add a row"),
        ("relation\nborn\nborn\n", r"facts\.mine\.relations: '.*' has two rows for 'born'; keep one"),
        ("name\nborn\n", r"facts\.mine\.relations: '.*' lacks the column 'relation'"),
    ],
)
def test_tables_of_relations_that_do_not_fit_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = csv(tmp_path, "subject,relation,object\nAda,born,London\n")
    with pytest.raises(FactError, match=message):
        read(tmp_path, path, relations_path=csv(tmp_path, text, "kinds.csv"))


def test_a_repeated_fact_is_used_once_and_said_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = csv(tmp_path, "subject,relation,object\nAda,born,London\nBo,born,Oslo\nAda,born,London\n")
    facts, relations = read(tmp_path, path)
    assert facts["subject"].to_list() == ["Ada", "Bo"]
    assert relations["n_facts"].to_list() == [2]
    assert "repeats 1 facts" in capsys.readouterr().err


def test_a_relation_with_one_object_is_kept_and_said_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    facts, _ = read(tmp_path, csv(tmp_path, "subject,relation,object\nAda,born,London\nBo,born,London\n"))
    assert facts.height == 2
    assert "1 relations have one object only ('born')" in capsys.readouterr().err


def test_a_draw_keeps_the_order_depends_on_the_seed_alone_and_numbers_facts_anew(tmp_path: Path) -> None:
    rows = "".join(f"S{i:03d},r{i % 4},o{i % 7}\n" for i in range(200))
    path = csv(tmp_path, "subject,relation,object\n" + rows)
    first, relations = read(tmp_path, path, max_facts=30, seed=1)
    again, _ = read(tmp_path, path, max_facts=30, seed=1)
    other, _ = read(tmp_path, path, max_facts=30, seed=2)
    assert first.equals(again)
    assert first["subject"].to_list() != other["subject"].to_list()
    assert first["fact"].to_list() == list(range(30))
    assert first["subject"].is_sorted()
    assert relations["n_facts"].sum() == 30
    assert read(tmp_path, path, max_facts=200)[0].height == 200


def test_an_unknown_source_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FactError, match=r"facts\.mine\.source is 'web'; it must be demo, pararel or file"):
        read(tmp_path, tmp_path / "x.csv", source="web")


# The demo's.


def test_the_demo_tells_contradicted_pairs_from_others_and_is_one_group(tmp_path: Path) -> None:
    world = demo_world_facts()
    write_table(world, tmp_path / "demo.parquet", "demo_facts")
    facts, relations = read(tmp_path, tmp_path / "demo.parquet", source="demo")
    assert facts.height == world.height
    expected = ["contradicted" if told else "held_out" for told in world["contradicted_in_training"]]
    assert facts["subset"].to_list() == expected
    assert facts["query"].to_list() == world["query"].to_list()
    assert facts["relation_group"].unique().to_list() == ["people"]
    assert dict(relations.select("relation", "description").iter_rows()) == DEMO_DESCRIPTIONS


# ParaRel.


def pararel(folder: Path, rows: list[tuple[str, ...]], kinds: list[tuple[str | None, ...]]) -> dict[str, Any]:
    """Files like ParaRel's: rows of subject, rel_lemma, object, query, statement subject, relation, object."""
    names = ("subject", "rel_lemma", "object", "query", "statement_subject", "statement_relation", "statement_object")
    pl.DataFrame(rows, schema=names, orient="row").with_row_index("").write_csv(folder / "pararel.csv")
    write_xlsx(folder / "kinds.xlsx", [KINDS_HEADING, *kinds])
    return {"source": "pararel", "path": folder / "pararel.csv", "relations_path": folder / "kinds.xlsx"}


CAPITAL = ("places", "capital-of", "the name of the country", "Paris is the capital of", "Paris", "France")


def test_pararel_facts_are_what_the_statement_says_not_the_raw_columns(tmp_path: Path) -> None:
    row = ("Sweden", "capital-of", "Stockholm", "Sweden's capital,", "Stockholm", "is the capital city of", "Sweden")
    options = pararel(tmp_path, [row], [CAPITAL])
    facts, relations = read(tmp_path, **options)
    expected = {"subject": "Stockholm", "object": "Sweden", "query": "Stockholm is the capital city of"}
    assert facts.select(list(expected)).to_dicts() == [expected]
    assert facts["statement"].to_list() == ["Stockholm is the capital city of Sweden."]
    assert relations.rows() == [
        ("capital-of", "places", 1, "the name of the country", "Paris is the capital of", "Paris", "France")
    ]


def test_a_pararel_pair_with_two_objects_is_one_fact(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        ("a", "capital-of", "b", "q", "Switzerland", "shares a border with", "Germany"),
        ("a", "capital-of", "b", "q", "Switzerland", "shares a border with", "Austria"),
        ("a", "capital-of", "b", "q", "Switzerland", "shares a border with", "Germany"),
    ]
    facts, _ = read(tmp_path, **pararel(tmp_path, rows, [CAPITAL]))
    assert facts["object"].to_list() == ["Germany"]
    said = capsys.readouterr()
    assert "1 facts left out" in said.out
    assert "'Switzerland' (capital-of): 'Germany' and 'Austria'" in said.out
    assert "repeats 1 facts" in said.err


def test_pararel_relations_marked_as_deleted_do_not_put_that_mark_into_prompts(tmp_path: Path) -> None:
    rows = [
        ("a", "capital-of", "b", "q", "Stockholm", "is the capital of", "Sweden"),
        ("a", "is-name-for", "b", "q", "Cleveland Airport", "is the name for", "Cleveland"),
    ]
    marked = ("names", "is-name-for", "SUPPRIMER CAR PAR DEFINITION", None, None, None)
    facts, relations = read(tmp_path, **pararel(tmp_path, rows, [CAPITAL, marked]))
    assert facts["relation"].to_list() == relations["relation"].to_list() == ["capital-of"]


def test_pararel_needs_its_relations(tmp_path: Path) -> None:
    options = pararel(tmp_path, [("a", "r", "b", "q", "A", "is", "B")], [CAPITAL])
    with pytest.raises(FactError, match=r"facts\.mine\.relations is missing"):
        read(tmp_path, **options | {"relations_path": None})
    with pytest.raises(FactError, match=r"facts\.mine\.relations: '.*' lacks relations that the facts name: 'r'"):
        read(tmp_path, **options)
    write_xlsx(tmp_path / "kinds.xlsx", [("relation",), ("r",)])
    with pytest.raises(FactError, match=r"facts\.mine\.relations: '.*' lacks the column 'relation_group_id'"):
        read(tmp_path, **options)


def test_study_b_edition_of_pararel_is_read_whole(tmp_path: Path, shared: Path) -> None:
    path, kinds = shared / "facts" / "pararel.csv", shared / "facts" / "pararel_relations.xlsx"
    if not path.is_file():
        pytest.skip(f"no {path}")
    facts, relations = read(tmp_path, path, source="pararel", relations_path=kinds)
    raw = pl.read_csv(path, infer_schema=False)
    # Counted apart: one marked relation, 8 repeated triples, 3 pairs with a second object.
    kept = raw.filter(pl.col("rel_lemma") != "is-name-for")
    pairs = kept.unique(["statement_subject", "rel_lemma"], keep="first", maintain_order=True)
    assert facts["statement"].to_list() == pairs["statement"].to_list()
    assert (facts.height, relations.height, relations["relation_group"].n_unique()) == (4676, 70, 8)
    assert facts.select("subject", "relation").is_unique().all()
    assert relations.select("description", "example_query", "example_object").null_count().row(0) == (0, 0, 0)
