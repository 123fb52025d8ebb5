"""Last-layer states of a text's counted positions, batch by batch: what every ablation rule iterates over."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm import tqdm

from neuronlab.ablation import AblationError, LastLayer, Tokens
from neuronlab.frequencies import unigram
from neuronlab.kernels.interface import Reference
from neuronlab.last_layers import last_layer_of
from neuronlab.model_files import ModelSpec
from neuronlab.models import Model, load_model
from neuronlab.replacements import ActivationStatistics, Donors, Replacement, draw_donors, parse_replacements
from neuronlab.tables import read_table

Array = np.ndarray


@dataclass(frozen=True)
class Text:
    """tokens.parquet as arrays."""

    tokens: Int[Array, "sequences position"]
    documents: Int[Array, "sequences position"]
    counted: Bool[Array, "sequences position"]

    @classmethod
    def read(cls, path: str | Path) -> Text:
        """Read tokens.parquet.

        Raises:
            AblationError: if nothing is counted, or a sequence's last position is, which has no next token.
        """
        return cls.of_frame(read_table(path, "tokens"), str(path))

    @classmethod
    def of_frame(cls, frame: pl.DataFrame, where: str) -> Text:
        """The same from a table "tokens"; `where` names it in messages."""
        frame = frame.sort("sequence")
        text = cls(*(_matrix(frame[name], where) for name in ("tokens", "documents", "counted")))
        if not text.counted.any():
            raise AblationError(f"{where}: no position counts; lower min_position of the text or use more of it")
        if text.counted[:, -1].any():
            raise AblationError(f"{where}: a last position is counted, but it has no next token; make the table again")
        return text

    def rows(self, sequences: Int[Array, " tokens"], positions: Int[Array, " tokens"]) -> dict[str, Array]:
        """The columns of `schemas.TOKEN` for some positions."""
        return {
            "sequence": sequences,
            "position": positions,
            "document": self.documents[sequences, positions],
            "token": self.tokens[sequences, positions],
            "next_token": self.tokens[sequences, positions + 1],
        }


def _matrix(lists: pl.Series, where: str) -> Array:
    """Lists of one length as an array of int64 or bool; not by way of Python's numbers, which take much memory."""
    if lists.list.len().n_unique() > 1:
        raise AblationError(f"{where}: sequences of different lengths in column '{lists.name}'; make the table again")
    flat = lists.explode()
    return (flat if flat.dtype == pl.Boolean else flat.cast(pl.Int64)).to_numpy(writable=True).reshape(len(lists), -1)


@dataclass(frozen=True)
class Batch:
    """Counted positions of a few sequences, flat over tokens, in order.

    Attributes:
        sequence, position: where each token stands.
        tokens: its state.
        donated: activations at the donor positions, if asked for.
    """

    sequence: Int[Array, " tokens"]
    position: Int[Array, " tokens"]
    tokens: Tokens
    donated: Float[Array, "tokens neurons"] | None

    def __len__(self) -> int:
        return len(self.sequence)

    def chunks(self, size: int) -> Iterator[slice]:
        """Slices of at most `size` tokens."""
        for start in range(0, len(self), size):
            yield slice(start, min(start + size, len(self)))


@dataclass(frozen=True)
class Setup:
    """A loaded model with a text, its statistics and the replacements to be made."""

    model: Model
    last: LastLayer
    text: Text
    statistics: ActivationStatistics
    replacements: list[Replacement]
    donors: Donors | None

    def delta(
        self, batch: Batch, part: slice, neurons: Sequence[int] | slice, replacement: Replacement
    ) -> Float[Tensor, "tokens neurons"]:
        """Replacement minus activation, float64, for a chunk of tokens and some neurons."""
        return self.value(batch, part, neurons, replacement) - batch.tokens.activations[part][:, neurons].double()

    def value(
        self, batch: Batch, part: slice, neurons: Sequence[int] | slice, replacement: Replacement
    ) -> Float[Tensor, "tokens neurons"]:
        """What the activations are replaced by, float64."""
        donated = None if batch.donated is None else batch.donated[part]
        values = self.statistics.values(replacement, batch.position[part], donated)[:, neurons]
        return torch.from_numpy(np.array(values, dtype=np.float64)).to(self.last.device)

    def batches(self, sequences: Sequence[int], batch_size: int, label: str) -> Iterator[Batch]:
        """States of the counted positions of `sequences`, `batch_size` sequences at a time."""
        wanted = [s for s in sequences if self.text.counted[s].any()]
        for start in tqdm(range(0, len(wanted), batch_size), desc=label, unit="batch", file=sys.stderr, disable=None):
            yield self.batch(wanted[start : start + batch_size])

    def batch(self, sequences: Sequence[int]) -> Batch:
        """States of the counted positions of some sequences, by one forward pass (two with donors)."""
        chosen = np.asarray(sequences, dtype=np.int64)
        counted = self.text.counted[chosen]
        row, position = np.nonzero(counted)
        state = self.model.run(torch.from_numpy(self.text.tokens[chosen]).long())
        device = self.last.device
        places = torch.from_numpy(row).to(state.residual.device), torch.from_numpy(position).to(state.residual.device)
        targets = torch.from_numpy(self.text.tokens[chosen][row, position + 1]).long()
        tokens = Tokens(
            residual=state.residual[places].to(device),
            activations=state.activations[places].to(device),
            targets=targets.to(device),
            mlp=None if state.mlp_out is None else state.mlp_out[places].to(device),
        )
        donated = None
        if self.donors is not None:
            lenders = self.donors.sequence[chosen]
            lent = self.model.run(torch.from_numpy(self.text.tokens[lenders]).long()).activations.cpu().numpy()
            donated = lent[row, self.donors.position[chosen[row], position]].astype(np.float64)
        return Batch(chosen[row], position, tokens, donated)

    def tiles(self, size: int) -> list[slice]:
        """Slices of at most `size` neurons."""
        return [slice(start, min(start + size, self.last.neurons)) for start in range(0, self.last.neurons, size)]


@dataclass(frozen=True)
class AblationInputs:
    """What every rule that replaces last-layer activations on a text is given: files, and how to compute.

    Attributes:
        tokens, counts, statistics: tables "tokens", "token_counts", "activation_statistics".
        include_padded: let padded ids take part in the log-unigram direction.
        replacements: entries of `ablation.replacements`.
        batch_size: sequences per forward pass.
        tokens_per_chunk, neurons_per_tile: bound the memory; change results by rounding at most.
    """

    model: ModelSpec
    tokens: str | Path
    counts: str | Path
    statistics: str | Path
    include_padded: bool = False
    replacements: tuple[str, ...] = ("mean",)
    kernel: str = "auto"
    batch_size: int = 16
    tokens_per_chunk: int = 128
    neurons_per_tile: int = 4096
    seed: int = 0

    def set_up(self, replacements: Sequence[str] | None = None) -> Setup:
        """Check the replacements, read the tables, load the model: cheap checks first.

        Args:
            replacements: instead of the configured ones.

        Raises:
            ReplacementError, AblationError, TableError, ModelError: whatever does not fit.
        """
        parsed = parse_replacements(self.replacements if replacements is None else replacements)
        text = Text.read(self.tokens)
        statistics = read_table(self.statistics, "activation_statistics")
        counts = read_table(self.counts, "token_counts")
        loaded = load_model(self.model)
        last = last_layer(loaded, counts, include_padded=self.include_padded, kernel=self.kernel)
        return Setup(
            model=loaded,
            last=last,
            text=text,
            statistics=ActivationStatistics.of_layer(statistics, last.layer, last.neurons),
            replacements=parsed,
            donors=draw_donors(text.counted, self.seed) if any(r.kind == "resample" for r in parsed) else None,
        )


def last_layer(model: Model, counts: pl.DataFrame, *, include_padded: bool, kernel: str) -> LastLayer:
    """The last layer of a model with a text's unigram distribution, on the device that effects are computed on.

    That is the model's GPU where it is one that knows float64, the CPU otherwise (mps).

    Raises:
        AblationError: for counts of another vocabulary, or an unknown kernel.
    """
    reference = reference_of(model, counts, include_padded=include_padded)
    return last_layer_of(model, kernel=kernel, reference=reference)


def reference_of(model: Model, counts: pl.DataFrame, *, include_padded: bool) -> Reference:
    """The unigram distribution of a text as the kernels take it.

    Raises:
        AblationError: if the counts are of another vocabulary.
    """
    if len(counts) != model.d_vocab:
        raise AblationError(
            f"token counts have {len(counts)} ids, the vocabulary of {model.spec.key} {model.d_vocab}; "
            "they belong to another model: delete them and run again"
        )
    found = unigram(counts, include_padded=include_padded)
    return Reference(torch.from_numpy(found.p), torch.from_numpy(found.direction))
