"""Rule `measure_reference_kl`: does ablating neurons bring the output nearer to another distribution, or further away?

For a distribution q per token and the model's p, KL(q || p) = sum_v q_v (log q_v - log p_v), nats, the reference first:
its expectation, as in METHODS A3. Ablating a set of neurons changes the logits by D (`joint.logit_changes`), so

    d KL(q || p) = log sum_v p_v exp(D_v) - sum_v q_v D_v                    (METHODS A2)

in which q's own entropy has no part and nothing cancels. References:

* `model:<name>`: what another, larger model predicts at the same position of the same sequence. Both must have the
  same vocabulary: the same pieces under the same ids. Sizes may differ by ids that only pad them;
* `bias`: the softmax of the folded read-out's bias b, the prediction that is left where the normed residual vanishes.
  b is b_U and, for LayerNorm, beta W_U with the final norm's bias beta. Only where b is not constant.

Ids that pad a vocabulary stay in the softmax, as everywhere (METHODS 0.6). Where one model is padded further than the
other, the reference lives on the ids that both have: its softmax is taken over those, and is zero on the model's other
ones. So a model's divergence from itself is zero, whatever its padding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Int
from torch import Tensor

from neuronlab.ablation import clean_of, readout_dtype
from neuronlab.final_states import AblationInputs, Batch, Setup
from neuronlab.joint import lines_of_sets, logit_changes
from neuronlab.kernels.interface import precise_product
from neuronlab.kernels.torch_kernel import log_sum_exp_change
from neuronlab.model_files import ModelError, ModelSpec
from neuronlab.models import Model, load_model
from neuronlab.neuron_sets import NeuronSet, read_selections, sets_of_layer, single_neurons
from neuronlab.readout import Readout
from neuronlab.schemas import SCHEMAS
from neuronlab.statistics import bootstrap_weights, clustered_interval
from neuronlab.tables import Provenance, write_table
from neuronlab.token_sample import with_sample
from neuronlab.vocabulary import load_vocabulary

Array = np.ndarray
MEASURES = ("kl_total", "kl_direct", "kl_total_abs")
FLAT = 1e-9  # nats; a bias that varies less over the vocabulary is constant


def measure_reference_kl(
    *,
    inputs: AblationInputs,
    selection: Sequence[str | Path],
    references: Mapping[str, ModelSpec],
    reference_kl: str | Path,
    tokens: int | None = None,
    resamples: int = 1000,
    level: float = 0.95,
    provenance: Provenance | None = None,
) -> None:
    """Write reference_kl.parquet: a row per reference and set, for the first replacement configured.

    Args:
        selection: selection tables; every set with neurons in the last layer is ablated jointly, controls too, and
            every selected neuron alone.
        references: models to compare with, by name; may be empty.
        tokens: counted tokens used, drawn by the seed in whole sequences as far as possible; all for None.

    Raises:
        ModelError: for a reference of another vocabulary, before any weight is loaded, or one that cannot be loaded.
        ReplacementError, AblationError, TableError: see `final_states.AblationInputs.set_up`.
    """
    check_vocabularies(inputs.model, references)
    chosen = read_selections(selection)
    setup = with_sample(inputs.set_up(inputs.replacements[:1]), tokens, inputs.seed)
    sets = sets_of_layer(chosen, setup.last.layer)
    sets += single_neurons(sets, setup.last.layer)
    bias = BiasReference.of(setup.last.readout)
    found: list[BiasReference | ModelReference] = [] if bias is None else [bias]
    if sets:  # no model is loaded for nothing
        found += [ModelReference.load(name, spec, setup) for name, spec in references.items()]
    frames = [pl.DataFrame(schema={name: column.dtype for name, column in SCHEMAS["reference_kl"].items()})]
    if sets and found:
        sums = reference_sums(setup, found, sets, inputs.batch_size, inputs.tokens_per_chunk)
        weights = bootstrap_weights(len(sums.counts), resamples, inputs.seed)
        frames += [sums.frame(name, sets, setup.replacements[0].name, weights, level) for name in sums.clean]
    frame = pl.concat(frames)
    write_table(frame, reference_kl, "reference_kl", {**(provenance or {}), "kernel": setup.last.kernel})


def check_vocabularies(model: ModelSpec, references: Mapping[str, ModelSpec]) -> None:
    """Refuse references whose tokenizer differs from the model's in any piece or id.

    Raises:
        ModelError: naming the two models and a piece at fault.
    """
    if not references:
        return
    own = load_vocabulary(model).tokenizer.get_vocab()
    for name, spec in references.items():
        other = load_vocabulary(spec).tokenizer.get_vocab()
        differing = sorted(piece for piece in own.keys() | other.keys() if own.get(piece) != other.get(piece))
        if differing:
            piece = differing[0]
            raise ModelError(
                f"confidence_regulation.references: {model.key} and {name} have different vocabularies "
                f"({len(own)} and {len(other)} pieces; {len(differing)} differ, such as {piece!r} with id "
                f"{own.get(piece)} and {other.get(piece)}), so that their distributions cannot be compared; "
                "name a model with the same tokenizer"
            )


def shared_distribution(logits: Float[Tensor, "rows vocab"], vocab: int) -> Float[Tensor, "rows vocab_out"]:
    """Softmax over the first `vocab` ids, or over all where there are fewer, filled with zeros to `vocab`; float64."""
    p = logits[:, :vocab].double().softmax(-1)
    return torch.nn.functional.pad(p, (0, vocab - p.shape[1]))


@dataclass(frozen=True)
class BiasReference:
    """Softmax of the read-out's bias: the same distribution at every token."""

    q: Float[Tensor, "1 vocab"]
    name: str = "bias"

    @classmethod
    def of(cls, readout: Readout) -> BiasReference | None:
        """None where the bias says nothing: constant over the vocabulary, or absent."""
        b = readout.cap(readout.b.double())
        if float(b.max() - b.min()) <= FLAT:
            return None
        return cls(b[None].softmax(-1))

    def prepare(self, batch: Batch, setup: Setup) -> None:
        """Nothing depends on the batch."""

    def distribution(self, part: slice) -> Float[Tensor, "1 vocab"]:
        """The distribution at the tokens of a chunk, one row for them all."""
        return self.q


class ModelReference:
    """What another model predicts at each token, from the same sequences."""

    def __init__(self, name: str, model: Model, device: torch.device, vocab: int) -> None:
        self.name, self.model, self.device, self.vocab = f"model:{name}", model, device, vocab
        precise = model.device.type != "mps"
        dtype = readout_dtype(model.d_model, model.d_vocab) if precise else torch.float32
        self.readout = model.readout(dtype).to(device)
        self.residual: Float[Tensor, "tokens d"] | None = None

    @classmethod
    def load(cls, name: str, spec: ModelSpec, setup: Setup) -> ModelReference:
        """Load the model; its read-out runs where the effects are computed."""
        return cls(name, load_model(spec), setup.last.device, setup.last.readout.vocab)

    def prepare(self, batch: Batch, setup: Setup) -> None:
        """One forward pass over the sequences of a batch."""
        sequences, row = np.unique(batch.sequence, return_inverse=True)
        state = self.model.run(torch.from_numpy(setup.text.tokens[sequences]).long())
        places = (torch.from_numpy(index).to(state.residual.device) for index in (row, batch.position))
        self.residual = state.residual[tuple(places)].to(self.device)

    def distribution(self, part: slice) -> Float[Tensor, "tokens vocab"]:
        """The distributions at the tokens of a chunk of the batch prepared last."""
        assert self.residual is not None
        readout, x = self.readout, self.residual[part].double()
        logits = readout.cap(precise_product(readout.normalise(x), readout.W) + readout.b.double())
        return shared_distribution(logits, self.vocab)


class ReferenceSums:
    """Sums per document: of the clean divergence per reference, and of its changes per reference and set."""

    def __init__(self, documents: Int[Array, " counted"], names: Sequence[str], sets: int) -> None:
        self.documents, counts = np.unique(documents, return_counts=True)
        self.counts: Int[Array, " documents"] = counts
        self.clean = {name: np.zeros(len(counts)) for name in names}
        self.changes = {name: {measure: np.zeros((len(counts), sets)) for measure in MEASURES} for name in names}

    def add(
        self,
        name: str,
        documents: Int[Array, " tokens"],
        clean: Float[Array, " tokens"],
        changes: Mapping[str, Float[Array, "tokens sets"]],
    ) -> None:
        """Add one chunk of a reference."""
        rows = np.searchsorted(self.documents, documents)
        np.add.at(self.clean[name], rows, clean)
        for measure, array in changes.items():
            np.add.at(self.changes[name][measure], rows, array)

    def frame(
        self,
        name: str,
        sets: Sequence[NeuronSet],
        replacement: str,
        weights: Float[Array, "resamples documents"],
        level: float,
    ) -> pl.DataFrame:
        """Rows of one reference, in order of the sets."""
        own = [{**one.columns(), "replacement": replacement, "reference": name} for one in sets]
        found = {"kl_clean": clustered_interval(self.clean[name][:, None], self.counts, weights, level)}
        found |= {
            measure: clustered_interval(array, self.counts, weights, level)
            for measure, array in self.changes[name].items()
        }
        columns: dict[str, Array] = {}
        for measure, interval in found.items():
            for suffix, array in (("", interval.estimate), ("_low", interval.low), ("_high", interval.high)):
                columns[measure + suffix] = np.broadcast_to(array, (len(sets),))
        schema = SCHEMAS["reference_kl"]
        frame = pl.DataFrame(own, {key: schema[key].dtype for key in own[0]}).with_columns(
            n_tokens=pl.lit(int(self.counts.sum()), pl.Int64),
            n_documents=pl.lit(len(self.counts), pl.Int64),
            **{key: pl.Series(array) for key, array in columns.items()},
        )
        return frame.select(list(schema)).with_columns(pl.col(pl.Float64).fill_nan(None))


def reference_sums(
    setup: Setup,
    references: Sequence[BiasReference | ModelReference],
    sets: Sequence[NeuronSet],
    batch_size: int,
    tokens_per_chunk: int,
) -> ReferenceSums:
    """Divergences before and after each joint ablation, for all references in one pass over the text."""
    last, text = setup.last, setup.text
    members = [one.neurons for one in sets]
    lines = lines_of_sets(last, members)
    sums = ReferenceSums(text.documents[text.counted], [reference.name for reference in references], len(sets))
    for batch in setup.batches(range(len(text.tokens)), batch_size, "reference"):
        for reference in references:
            reference.prepare(batch, setup)
        for part in batch.chunks(tokens_per_chunk):
            chunk = batch.tokens[part]
            clean = clean_of(last, chunk)
            delta = setup.delta(batch, part, list(lines.neurons), setup.replacements[0])
            deltas = [delta[:, list(place)] for place in lines.places]
            q = {reference.name: reference.distribution(part) for reference in references}
            changes = {name: dict.fromkeys(("total", "direct")) for name in q}
            for variant in ("total", "direct"):
                pieces: dict[str, list[Array]] = {name: [] for name in q}
                for here, D in logit_changes(last, chunk, clean, members, deltas, variant=variant, lines=lines):
                    dlse = log_sum_exp_change(clean.lp[here], clean.p[here], D)
                    for name, rows in q.items():
                        own = rows if len(rows) == 1 else rows[here]
                        pieces[name].append((dlse - expectation(own, D)).cpu().numpy())
                for name, arrays in pieces.items():
                    changes[name][variant] = np.concatenate(arrays)
            documents = text.documents[batch.sequence[part], batch.position[part]]
            for name, rows in q.items():
                total, direct = changes[name]["total"], changes[name]["direct"]
                found = {"kl_total": total, "kl_direct": direct, "kl_total_abs": np.abs(total)}
                sums.add(name, documents, divergence(rows, clean.lp).cpu().numpy(), found)
    return sums


def divergence(q: Float[Tensor, "#tokens vocab"], lp: Float[Tensor, "tokens vocab"]) -> Float[Tensor, " tokens"]:
    """KL(q || p) = sum q (log q - log p), float64 nats; ids with q = 0 add nothing.

    Args:
        q: the reference: probabilities.
        lp: the model: log-probabilities.
    """
    q = q.double()
    return (torch.special.xlogy(q, q).sum(-1) - (q * lp).sum(-1)).clamp_min(0)  # negative by rounding alone


def expectation(
    q: Float[Tensor, "#tokens vocab"], D: Float[Tensor, "tokens sets vocab"]
) -> Float[Tensor, "tokens sets"]:
    """sum q D, float64."""
    return (D * q[:, None].to(D.dtype)).sum(-1, dtype=torch.float64)
