"""Groups of variants as arrays: what `decoding_choice` needs of them, whatever the prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from neuronlab.ablation import LastLayer, readout_dtype
from neuronlab.kernels.choice_interface import Lines
from neuronlab.kernels.interface import directions
from neuronlab.prompt_batches import DecodingError
from neuronlab.synthetic_sets import check_synthetic, synthetic_directions
from neuronlab.variant_groups import CLEAN, VariantGroup


@dataclass(frozen=True)
class Bucket:
    """Variants that replace equally many neurons, all by their own directions or all by synthetic ones.

    Attributes:
        own: lines of the set's neurons; also where they stand among all neurons that any variant replaces.
        written: lines of the directions that are written; the same unless synthetic.
        values: what activations are held at.
        group: which of the bucket's groups a variant belongs to.
        own_gram, written_gram, raw_gram: inner products within each group.
    """

    synthetic: bool
    own: Int[Tensor, "variants k"]
    written: Int[Tensor, "variants k"]
    values: Float[Tensor, "variants k"]
    group: Int[Tensor, " variants"]
    own_gram: Float[Tensor, "groups k k"]
    written_gram: Float[Tensor, "groups k k"] | None
    raw_gram: Float[Tensor, "groups k k"] | None

    @property
    def size(self) -> int:
        """Neurons of a set."""
        return self.own.shape[1]


@dataclass(frozen=True)
class VariantTable:
    """All variants, the clean one included.

    Attributes:
        lines: logits that directions write, each once; float64 unless that would be too large.
        w: the directions, float64, centred where the norm centres.
        raw: raw weights of the neurons, where a norm follows the MLP.
        neurons: those that any variant replaces, in order; the first lines are theirs, the others synthetic.
        bucket, place: in which bucket each variant is, and where.
    """

    lines: Lines
    w: Float[Tensor, "lines d"]
    raw: Float[Tensor, "lines d"] | None
    buckets: tuple[Bucket, ...]
    neurons: Int[Tensor, " columns"]
    bucket: Int[Tensor, " variants"]
    place: Int[Tensor, " variants"]

    def __len__(self) -> int:
        return len(self.bucket)


def tabulate(last: LastLayer, groups: Sequence[VariantGroup], seed: int) -> VariantTable:
    """Check groups of variants and compute what they share.

    Raises:
        DecodingError: for variants that are not numbered from 1 without gaps, values that are not finite or of another
            shape, or neurons that the last layer does not have.
        SyntheticSetError: for synthetic groups where there is a norm after the MLP.
    """
    groups = [group for group in groups if len(group.variants)]
    total = _check(last, groups)
    neurons = sorted({n for group in groups for n in group.neurons})
    column = {n: i for i, n in enumerate(neurons)}
    turned: list[Tensor] = []
    first = len(neurons)  # the next synthetic line
    members: dict[tuple[bool, int], list[tuple[VariantGroup, list[int]]]] = {(False, 0): []}
    for group in groups:
        own = [column[n] for n in group.neurons]
        synthetic = group.draw is not None and bool(own)
        if synthetic:
            check_synthetic(last.readout)
            turned.append(synthetic_directions(last.readout, last.w[list(group.neurons)], int(group.draw or 0), seed))
        written = list(range(first, first + len(own))) if synthetic else own
        first += len(own) if synthetic else 0
        members.setdefault((synthetic, len(own)), []).append((group, written))
    readout = last.readout
    w = torch.cat([readout.centre(last.w[neurons].double()), *turned])
    raw = None if readout.post_gain is None else last.raw[neurons].double()
    bucket, place = np.zeros(total, np.int64), np.zeros(total, np.int64)
    buckets = []
    for number, ((synthetic, _), found) in enumerate(sorted(members.items(), key=lambda item: item[0])):
        numbers = [np.asarray(group.variants, np.int64) for group, _ in found]
        if number == 0:  # sets without neurons: variant 0 is one
            numbers = [np.array([CLEAN]), *numbers]
        chosen = np.concatenate(numbers)
        bucket[chosen], place[chosen] = number, np.arange(len(chosen))
        buckets.append(_bucket(w, raw, column, found, synthetic, clean=number == 0))
    return VariantTable(
        lines=Lines.of_logits(directions(readout, w, dtype=readout_dtype(len(w), readout.vocab)).U),
        w=w,
        raw=raw,
        buckets=tuple(buckets),
        neurons=torch.tensor(neurons, dtype=torch.long, device=last.device),
        bucket=torch.from_numpy(bucket).to(last.device),
        place=torch.from_numpy(place).to(last.device),
    )


def _check(last: LastLayer, groups: Sequence[VariantGroup]) -> int:
    """Check the groups; the number of variants, the clean one included."""
    for group in groups:
        chosen, shape = group.neurons, (len(group.variants), len(group.neurons))
        if len(set(chosen)) != len(chosen) or not all(0 <= n < last.neurons for n in chosen):
            raise DecodingError(
                f"variants {list(group.variants)[:5]} replace neurons {list(chosen)[:10]}; they must be different "
                f"neurons of the last layer ({last.layer}), from 0 to {last.neurons - 1}: only there do all variants "
                "share keys and values"
            )
        if tuple(group.values.shape) != shape:
            raise DecodingError(
                f"variants {list(group.variants)[:5]}: values of shape {group.values.shape}, not {shape}"
            )
        if not np.isfinite(group.values).all():
            bad = sorted({n for n, fine in zip(chosen, np.isfinite(group.values).all(0), strict=True) if not fine})
            raise DecodingError(
                f"variants {list(group.variants)[:5]}: neurons {bad[:10]} are replaced by NaN or infinity; "
                "the activation statistics are damaged: make them again"
            )
    numbers = sorted(int(v) for group in groups for v in group.variants)
    if numbers != list(range(1, len(numbers) + 1)):
        raise DecodingError(
            f"variants must be numbered from 1 without gaps ({CLEAN} is the clean model), each in one group; "
            f"found {numbers[:10]}{' ...' if len(numbers) > 10 else ''}"
        )
    return len(numbers) + 1


def _bucket(
    w: Float[Tensor, "lines d"],
    raw: Float[Tensor, "neurons d"] | None,
    column: dict[int, int],
    found: Sequence[tuple[VariantGroup, list[int]]],
    synthetic: bool,
    *,
    clean: bool,
) -> Bucket:
    """Arrays of the groups in `found`, in their order; behind the clean variant if it is among them."""
    size = len(found[0][1]) if found else 0

    def index(rows: Sequence[Sequence[int]]) -> Int[Tensor, "rows k"]:
        return torch.tensor(rows, dtype=torch.long, device=w.device).reshape(len(rows), size)

    counts = [len(group.variants) for group, _ in found]
    repeated = [g for g, count in enumerate(counts) for _ in range(count)]
    own = index([[column[n] for n in group.neurons] for group, _ in found])
    written = index([rows for _, rows in found])
    values = np.concatenate([np.zeros((0, size)), *(np.asarray(group.values, np.float64) for group, _ in found)])
    if clean:
        own, written = (torch.cat([part.new_zeros(1, 0), part]) for part in (own, written))
        values = np.concatenate([np.zeros((1, 0)), values])
        repeated = [0, *(g + 1 for g in repeated)]
    group = torch.tensor(repeated, dtype=torch.long, device=w.device)

    def gram(rows: Int[Tensor, "groups k"], of: Float[Tensor, "lines d"]) -> Float[Tensor, "groups k k"]:
        return of[rows] @ of[rows].transpose(1, 2)

    return Bucket(
        synthetic=synthetic,
        own=own[group],
        written=written[group],
        values=torch.from_numpy(values).to(w.device),
        group=group,
        own_gram=gram(own, w),
        written_gram=gram(written, w) if synthetic else None,
        raw_gram=None if raw is None else gram(own, raw),
    )
