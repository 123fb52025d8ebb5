"""Rule `score_subjoiners`: heads that join the tokens of a word (METHODS C5).

A sequence is BOS (by the text's policy), `context` tokens of a document and a word of k tokens behind them; its partner
is as long and ends with a word of one token (see `multi_token_words`). At a sequence's last token, a head's attention
to the k - 1 tokens before it is added up: a share of the head's attention, so that a head that attends to one of the
earlier pieces alone scores as one that spreads over all of them, and words of any length compare. What comes of it is
in `subjoiner_statistics`.

All sequences of a k are of one length, so that none is padded. Patterns are reduced as they pass, a layer in memory at
a time. The examples are drawn by the seed among the words of the documents that did not choose the head that they
show, and without a look at their attention (C defect 7).
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import torch
from torch import Tensor
from tqdm import tqdm

from neuronlab.attention_parts import head_count, pattern, visit_patterns
from neuronlab.boosted_tokens import spell_tokens
from neuronlab.documents import TextSpec, read_documents
from neuronlab.model_files import ModelSpec
from neuronlab.models import Model, load_model
from neuronlab.multi_token_words import Pair, draw_pairs, read_words
from neuronlab.repeats import ordinary_ids
from neuronlab.schemas import SCHEMAS
from neuronlab.subjoiner_statistics import EVERY, REPORT, Attention, best_head, halves_of, summarise
from neuronlab.tables import Provenance, write_table
from neuronlab.texts import opening_token
from neuronlab.vocabulary import Vocabulary, load_vocabulary

Array = np.ndarray
KEY = "stages_of_inference.subjoiners"


class SubjoinerError(ValueError):
    """Settings or a model with which subjoiner heads cannot be measured; the message names the config key."""


def score_subjoiners(
    *,
    model: ModelSpec,
    text: TextSpec,
    documents: str | Path,
    subjoiners: str | Path,
    subjoiner_examples: str | Path,
    pieces: Sequence[int] = (2, 3, 4, 5),
    words: int = 400,
    context: int = 16,
    examples: int = 4,
    batch_size: int = 16,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    provenance: Provenance | None = None,
) -> None:
    """Write the tables "subjoiners" and "subjoiner_examples"; both without a row, and a warning, if no word is found.

    Args:
        documents: file of the text's documents.
        pieces: numbers of tokens that the words may have.
        words: at most so many are drawn.
        context: tokens of the document before each word.
        examples: words whose attention in the best head is written out; fewer if fewer are drawn.
        resamples: of the intervals; of the permutation more, see the module's head.

    Raises:
        SubjoinerError: settings that contradict one another or exceed the model's context, attention that cannot be
            read, or that is not finite.
        WordError: see `multi_token_words.read_words`.
        TextError, ModelError: unusable documents or model.
    """
    pieces = check_settings(pieces, words, context, examples, batch_size)
    vocabulary = load_vocabulary(model)
    pairs, opening = find_pairs(vocabulary, model, text, documents, pieces, words, context, seed)
    if not pairs:
        for path, name in ((subjoiners, "subjoiners"), (subjoiner_examples, "subjoiner_examples")):
            write_table(empty(name), path, name, provenance)
        return
    loaded = load_model(model)
    attention = measure(loaded, pairs, opening, batch_size)
    frame = summarise(attention, pairs, resamples, level, seed)
    write_table(frame, subjoiners, "subjoiners", provenance)
    best = best_head(frame)
    shown = [pairs[i] for i in drawn_examples(pairs, examples, seed)]
    write_table(example_frame(loaded, shown, opening, best), subjoiner_examples, "subjoiner_examples", provenance)


def check_settings(pieces: Sequence[int], words: int, context: int, examples: int, batch_size: int) -> tuple[int, ...]:
    """The numbers of tokens, ascending and each once.

    Raises:
        SubjoinerError: naming the key.
    """
    if not pieces or min(pieces) < 2:
        raise SubjoinerError(f"{KEY}.pieces is {list(pieces)}: words of several tokens have at least 2; give such")
    for key, value, least in (("words", words, 1), ("context", context, 1), ("examples", examples, 0)):
        if value < least:
            raise SubjoinerError(f"{KEY}.{key} is {value}; it must be at least {least}")
    if batch_size < 1:
        raise SubjoinerError(f"compute.batch_size is {batch_size}; at least one sequence must pass at a time")
    return tuple(sorted(set(pieces)))


def find_pairs(
    vocabulary: Vocabulary,
    model: ModelSpec,
    text: TextSpec,
    documents: str | Path,
    pieces: Sequence[int],
    words: int,
    context: int,
    seed: int,
) -> tuple[list[Pair], tuple[int, ...]]:
    """Pairs of words, and the tokens that open every sequence: a BOS or nothing; what was found goes to the log.

    Raises:
        SubjoinerError: if the longest sequence exceeds the model's context.
    """
    bos = opening_token(vocabulary, text, model)
    opening = () if bos is None else (bos,)
    longest, room = len(opening) + context + max(pieces), vocabulary.n_ctx
    if room is not None and longest > room:
        raise SubjoinerError(
            f"{KEY}.context is {context}: with words of up to {max(pieces)} tokens and what opens a sequence these are "
            f"{longest} tokens, but the context of {model.where} is {room}; lower it by {longest - room} or more"
        )
    read = read_words(
        read_documents(documents, text),
        vocabulary.tokenizer,
        ordinary_ids(vocabulary),
        pieces=pieces,
        words=words,
        context=context,
        seed=seed,
    )
    pairs = draw_pairs(read, pieces=pieces, words=words, context=context, seed=seed)
    counts = Counter(pair.pieces for pair in pairs)
    found = ", ".join(f"{counts[k]} of {k} tokens" for k in pieces)
    from_documents = len({pair.document for pair in pairs})
    print(f"score_subjoiners: words drawn from {from_documents} documents of {text.where}: {found}", file=sys.stderr)
    if not pairs:
        print(
            f"WARNING: {text.where} has no word of {', '.join(map(str, pieces))} tokens with {context} tokens of its "
            f"document before it and a one-token word nearby, as the tokenizer of {model.where} cuts it: the tables of "
            f"subjoiner heads are empty. Lower {KEY}.context, add to {KEY}.pieces, or use longer documents",
            file=sys.stderr,
        )
    for k in pieces:
        if pairs and not counts[k]:
            print(f"WARNING: {text.where}: no usable word of {k} tokens: no rows for them", file=sys.stderr)
    return pairs, opening


def empty(name: str) -> pl.DataFrame:
    """A table without a row."""
    return pl.DataFrame(schema={column: spec.dtype for column, spec in SCHEMAS[name].items()})


def measure(model: Model, pairs: Sequence[Pair], opening: tuple[int, ...], batch_size: int) -> Attention:
    """Both sequences of every pair through the model, `batch_size` sequences of one length at a time.

    Raises:
        SubjoinerError: attention without a hook point, or not finite.
    """
    check_hooks(model)
    found = np.full((2, len(pairs), model.n_layers, head_count(model.bridge)), np.nan)
    jobs = []
    for k in sorted({pair.pieces for pair in pairs}):
        rows = [(side, i) for i, pair in enumerate(pairs) if pair.pieces == k for side in (0, 1)]
        jobs += [(k, rows[start : start + batch_size]) for start in range(0, len(rows), batch_size)]
    for k, rows in tqdm(jobs, desc="subjoiners", unit="batch", file=sys.stderr, disable=None):
        side, pair = np.array(rows).T
        sequences = [opening + (pairs[i].single if second else pairs[i].word) for second, i in rows]

        def reduce(layer: int, seen: Tensor, k: int = k, side: Array = side, pair: Array = pair) -> None:
            earlier = seen[:, :, -1, -k:-1].cpu().double().sum(-1)
            found[side, pair, layer] = earlier.numpy()

        visit_patterns(model.bridge, torch.tensor(sequences, device=model.device), reduce)
    if not np.isfinite(found).all():
        raise SubjoinerError(
            f"{model.spec.where}: NaN or infinity in its attention; its dtype {model.spec.dtype} overflows: choose "
            "bfloat16 or float32"
        )
    return Attention(found[0], found[1])


def check_hooks(model: Model) -> None:
    """Refuse a model whose attention cannot be read.

    Raises:
        SubjoinerError: naming the hook point.
    """
    for layer in range(model.n_layers):
        if pattern(layer) not in model.bridge.hook_dict:
            raise SubjoinerError(
                f"{model.spec.where}: {model.architecture} has no hook point {pattern(layer)}: its attention is not "
                "covered. Leave `subjoiners` out of stages_of_inference.parts"
            )


def drawn_examples(pairs: Sequence[Pair], examples: int, seed: int) -> list[int]:
    """Which words are shown: drawn evenly and without replacement from the half that reports, by their number alone."""
    halves = halves_of(pairs, seed)
    there = np.flatnonzero(halves.get(REPORT, halves[EVERY]))
    chosen = np.random.default_rng([seed, 0x455841]).choice(there, min(examples, len(there)), replace=False)
    return chosen.tolist()


def example_frame(model: Model, shown: Sequence[Pair], opening: tuple[int, ...], best: tuple[int, int]) -> pl.DataFrame:
    """The table "subjoiner_examples": attention of the best head within each example, but for what opens it.

    Rows of a query do not add up to 1 where a BOS in front takes its share.
    """
    if not shown:
        return empty("subjoiner_examples")
    layer, head = best
    strings = spell_tokens(model.tokenizer, model.d_vocab)
    frames = []
    for number, pair in enumerate(shown):
        kept: list[Array] = []

        def keep(at: int, seen: Tensor, kept: list[Array] = kept) -> None:
            if at == layer:
                kept.append(seen[0, head].cpu().double().numpy())

        visit_patterns(model.bridge, torch.tensor([opening + pair.word], device=model.device), keep)
        length = len(pair.word)
        query, key = np.tril_indices(length)
        spelled = np.array([strings[token] for token in pair.word], dtype=object)
        first = length - pair.pieces
        frames.append(
            pl.DataFrame(
                {
                    "example": np.full(len(query), number),
                    "layer": np.full(len(query), layer),
                    "head": np.full(len(query), head),
                    "query": query,
                    "key": key,
                    "query_string": spelled[query].tolist(),
                    "key_string": spelled[key].tolist(),
                    "in_word": (query >= first) & (key >= first),
                    "attention": kept[0][-length:, -length:][query, key],
                }
            )
        )
    return pl.concat(frames)
