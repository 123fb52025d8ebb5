"""The demo world as files: evaluation documents, facts, and the token counts of the training run.

Evaluation documents come from streams of random numbers that training never draws from: every sentence and span in them
is new, while the facts recur, as facts do. Token counts are those of the tokens that the shipped model was trained on.
"""

from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Int

from neuronlab.demo import tokenizer
from neuronlab.demo.language import FULL_STOP, OBJECTS_PER_RELATION, RELATIONS, World, build_world, uniforms
from neuronlab.tables import Provenance, write_table

CHECKPOINTS = Path(__file__).parent / "checkpoints"
SPLITS = ("evaluation_a", "evaluation_b")
DOCUMENTS_PER_SPLIT = 300
SHORTEST, LONGEST, WINDOW = 40, 105, 128  # tokens; a document always fits the model's window, <|bos|> included


def write_world(
    documents_path: str | Path,
    facts_path: str | Path,
    counts_path: str | Path,
    provenance: Provenance | None = None,
) -> None:
    """Rule `make_demo_world`: the three tables. The counts are checked to belong to this tokenizer first."""
    counts = training_counts()
    table = pl.DataFrame({"token_id": np.arange(len(counts), dtype=np.int64), "count": counts})
    write_table(documents(), documents_path, "demo_documents", provenance)
    write_table(facts(), facts_path, "demo_facts", provenance)
    write_table(table, counts_path, "demo_token_counts", provenance)


def documents(per_split: int = DOCUMENTS_PER_SPLIT) -> pl.DataFrame:
    """Columns document (int64, unique over both splits), split, text."""
    world = build_world()
    rows = [
        {"document": number * per_split + index, "split": split, "text": world.text(unit_document)}
        for number, split in enumerate(SPLITS)
        for index, unit_document in enumerate(evaluation_documents(split, per_split))
    ]
    return pl.DataFrame(rows, schema={"document": pl.Int64, "split": pl.String, "text": pl.String})


def evaluation_documents(split: str, count: int) -> list[list[int]]:
    """The first ``count`` documents of a split as unit ids; each ends with a full stop within the window."""
    sampler, found = tokenizer.build_sampler(), []
    for index in range(count):
        draw = uniforms(split, 0, index)
        document = sampler.compose(draw, SHORTEST + int(draw() * (LONGEST - SHORTEST)))
        while len(tokenizer.document_tokens(document)) > WINDOW:
            # Drop the last sentence; of a document that is one long span, the last word.
            stops = [i for i, unit in enumerate(document[:-1]) if unit == FULL_STOP]
            document = document[: stops[-1] + 1] if stops else [*document[:-2], FULL_STOP]
        found.append(document)
    return found


def facts() -> pl.DataFrame:
    """One row per (subject, relation): what is true, how it is asked and stated, and whether training contradicts it.

    A prompt whose context contradicts a fact is ``f"{query} {other_object}. {query}"``.
    """
    world = build_world()
    rows = []
    for subject in range(len(world.fact_object)):
        for relation, (identity, (phrase, _)) in enumerate(RELATIONS.items()):
            name, thing = world.units[world.subject_unit(subject)], true_object(world, subject, relation)
            rows.append(
                {
                    "subject": name,
                    "relation": phrase,
                    "relation_id": identity,
                    "object": thing,
                    "query": f"{name} {phrase}",
                    "statement": f"{name} {phrase} {thing}.",
                    "contradicted_in_training": not world.held_out[subject, relation],
                }
            )
    return pl.DataFrame(rows)


def true_object(world: World, subject: int, relation: int) -> str:
    return world.units[world.object_unit(relation, int(world.fact_object[subject, relation]))]


def objects_of(world: World, relation: int) -> list[str]:
    return [world.units[world.object_unit(relation, which)] for which in range(OBJECTS_PER_RELATION)]


def training_counts() -> Int[np.ndarray, "vocabulary"]:
    """How often each token was a target of the training run that made the shipped checkpoint."""
    counts = np.load(CHECKPOINTS / "token_counts.npy")
    size = tokenizer.build_tokenizer().get_vocab_size()
    if counts.shape != (size,):
        raise ValueError(
            f"The shipped token counts have shape {counts.shape}, but the tokenizer has {size} tokens. "
            "Retrain the demo model, or restore demo/checkpoints/token_counts.npy."
        )
    return counts
