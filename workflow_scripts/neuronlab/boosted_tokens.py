"""The tokens that a neuron promotes and suppresses most, and every token as its tokenizer spells it.

A token is promoted where cos(w_out, W_U column) is largest; the cosine, not the logit, so that long columns of
W_U do not stand at the top of every neuron's list.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from neuronlab.models import ModelSpec, load_model
from neuronlab.neuron_sets import read_selections
from neuronlab.readout import COLUMNS, Readout
from neuronlab.tables import Provenance, write_table


def boosted(
    w: Float[Tensor, "neurons d"], readout: Readout, count: int
) -> tuple[Float[Tensor, "neurons ranks"], Float[Tensor, "neurons ranks"]]:
    """Token ids and cosines of the `count` most promoted tokens, then of the `count` most suppressed ones.

    Both parts begin with the extreme. Ids that only pad the vocabulary are left out; equal cosines stand in the
    order of their ids. Fewer than 2 `count` real ids give lists that overlap.
    """
    # On the CPU: a few neurons are no work, and not every accelerator knows float64.
    ids = readout.real.nonzero().flatten().cpu()
    w, tiny = w.cpu().double(), torch.finfo(torch.float64).tiny
    unit = w / w.norm(dim=1, keepdim=True).clamp_min(tiny)
    cosine = torch.empty(len(w), len(ids), dtype=torch.float64)
    for start in range(0, len(ids), COLUMNS):
        block = readout.W[:, ids[start : start + COLUMNS].to(readout.W.device)].cpu().double()
        cosine[:, start : start + COLUMNS] = unit @ (block / block.norm(dim=0).clamp_min(tiny))
    order = cosine.argsort(dim=1, descending=True, stable=True)
    chosen = torch.cat([order[:, :count], order[:, -count:].flip(1)], dim=1)
    return ids[chosen], cosine.gather(1, chosen)


def spell_tokens(tokenizer: PreTrainedTokenizerBase, d_vocab: int) -> list[str]:
    """Every id as the text that it adds within a sequence; ids without a token are named.

    Many tokenizers (SentencePiece, Metaspace) drop the space before the first token of what they decode. What a
    token adds after another one, here itself, keeps it.
    """
    known = set(tokenizer.get_vocab().values())

    def spelled(token: int) -> str:
        alone, twice = tokenizer.decode([token]), tokenizer.decode([token, token])
        return twice[len(alone) :] if twice.startswith(alone) else alone

    return [spelled(token) if token in known else f"<padding {token}>" for token in range(d_vocab)]


def boost_tokens(
    *,
    model: ModelSpec,
    selection: str | Path | Sequence[str | Path],
    boosted_tokens: str | Path,
    token_strings: str | Path,
    count: int,
    provenance: Provenance | None = None,
) -> None:
    """Rule `boost_tokens`: for every selected neuron, `count` tokens at either end; and all tokens' spelling.

    Raises:
        ModelError, TableError: unusable model or selection.
    """
    chosen = read_selections(selection).filter(pl.col("kind") == "selection")
    loaded = load_model(model)
    readout = loaded.readout()
    strings = spell_tokens(loaded.tokenizer, loaded.d_vocab)
    frames = []
    for (layer,), neurons in (
        chosen.select("layer", "neuron").unique().sort("layer", "neuron").group_by("layer", maintain_order=True)
    ):
        tokens, cosines = boosted(loaded.w_out(layer)[neurons["neuron"].to_list()], readout, count)
        n = tokens.shape[1] // 2
        ranks = [*range(n), *range(-1, -n - 1, -1)]
        for neuron, row, values in zip(neurons["neuron"], tokens.tolist(), cosines.tolist(), strict=True):
            spelled = [strings[token] for token in row]
            frames.append(
                pl.DataFrame({"rank": ranks, "token": row, "token_string": spelled, "cosine": values}).with_columns(
                    layer=layer, neuron=neuron
                )
            )
    empty = pl.DataFrame(schema=["layer", "neuron", "rank", "token", "token_string", "cosine"])
    write_table(pl.concat(frames) if frames else empty, boosted_tokens, "boosted_tokens", provenance)
    spelling = pl.DataFrame({"token": range(len(strings)), "string": strings})
    write_table(spelling, token_strings, "token_strings", provenance)
