"""Pairs of prompts and variants, as the tables have them, against naive generation with hooks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch

from neuronlab.ablation import LastLayer
from neuronlab.bridge_parts import hooked_forward
from neuronlab.conflict_prompts import Conflicts, label_fixed
from neuronlab.conflict_tables import WHOLE_ROUTES, conflict_tables, inspected
from neuronlab.models import Model
from neuronlab.naive_decoding import generate, variant_hooks
from neuronlab.schemas import SCHEMAS
from neuronlab.variant_groups import CLEAN, VariantGroup

ROWS = {column: spec.dtype for column, spec in SCHEMAS["decoding_verification"].items()}
# What states hold that a hook on the activations can show.
LOG_PROBS = ("log_prob_ck", "log_prob_pk", "log_prob_nd", "object_log_prob_ck", "object_log_prob_pk")


@dataclass(frozen=True)
class Pair:
    """One prompt under one variant: what the tables say, and what makes the variant.

    Attributes:
        tokens: generated.
        values: quantities of the tier 'readout' by name.
    """

    prompt: int
    variant: int
    group: VariantGroup | None
    row: int
    tokens: tuple[int, ...]
    values: dict[str, float]
    nd_token: int | None


@dataclass(frozen=True)
class Naive:
    """A model that generates naively, and the prompts that it is given."""

    model: Model
    last: LastLayer
    conflicts: Conflicts
    longest: int
    new_tokens: int
    seed: int

    @property
    def finished(self) -> Callable[[Sequence[int]], bool]:
        """When a continuation ends, as in the decoding."""
        return label_fixed(self.model.tokenizer, self.longest)

    def decoded_again(
        self, drawn: pl.DataFrame, groups: Sequence[VariantGroup], variants: pl.DataFrame, tie: float
    ) -> list[Pair]:
        """The sample from this model's own prefix tree, of the drawn prompts and variants alone."""
        old = [CLEAN, *sorted(set(drawn["variant"].to_list()) - {CLEAN})]
        fewer = _renumbered(groups, old)
        tables, _ = conflict_tables(
            self.model,
            self.last,
            self.conflicts,
            fewer,
            _renumbered(inspected(groups, variants), old),
            new_tokens=self.new_tokens,
            longest=self.longest,
            batch_size=8,
            tokens_per_chunk=64,
            tie=tie,
            seed=self.seed,
        )
        back = pl.col("variant").replace_strict(dict(enumerate(old)), return_dtype=pl.Int32)
        again = drawn.select("prompt", "variant").join(
            tables["decoded"].with_columns(back), on=["prompt", "variant"], maintain_order="left"
        )
        return sampled(again, groups, tables["continuations"], tables["states"].with_columns(back))

    def compared(
        self,
        sample: Sequence[Pair],
        tie: float,
        absolute: float,
        relative: float,
        rounding: float,
        *,
        generation: bool,
    ) -> pl.DataFrame:
        """The table "decoding_verification"."""
        rows = []
        for pair in sample:
            where = {"prompt": pair.prompt, "variant": pair.variant}
            if generation:
                rows.append(where | self._tokens(pair) | {"tolerance": tie})
            for name, value in self._values(pair).items():
                fast = pair.values[name]
                tolerance = absolute + relative * abs(value) + rounding * (1 + abs(value))
                rows.append(
                    where
                    | {"tier": "readout", "quantity": name, "fast": fast, "brute_force": value}
                    | {"error": abs(fast - value), "tolerance": tolerance}
                )
        frame = pl.DataFrame(rows, schema={name: dtype for name, dtype in ROWS.items() if name != "passed"})
        passed = (pl.col("error") <= pl.col("tolerance")) & pl.col("error").is_finite()
        return frame.with_columns(passed=passed).select(list(ROWS))

    def _tokens(self, pair: Pair) -> dict[str, str | float]:
        """One row of the tier 'generation': where the tokens part, and how near the best two logits are there.

        A continuation that ends where the other goes on parts by more than any tie: its error is infinite.
        """
        prompt = self.conflicts.prompts[self.conflicts.numbers.index(pair.prompt)]
        tokens, gaps = generate(
            self.model,
            self.last,
            prompt,
            pair.group,
            pair.row,
            new_tokens=self.new_tokens,
            finished=self.finished,
            seed=self.seed,
        )
        both = zip(pair.tokens, tokens, strict=False)
        agree = next((i for i, (fast, naive) in enumerate(both) if fast != naive), min(len(tokens), len(pair.tokens)))
        error = 0.0
        if tokens != pair.tokens:
            error = gaps[agree] if agree < min(len(tokens), len(pair.tokens)) else math.inf
        return {
            "tier": "generation",
            "quantity": "tokens",
            "fast": float(len(pair.tokens)),
            "brute_force": float(agree),
            "error": error,
        }

    def _values(self, pair: Pair) -> dict[str, float]:
        """The quantities of the pair by hooked forward passes over the prompt, alone or with an object behind it."""
        i = self.conflicts.numbers.index(pair.prompt)
        prompt = self.conflicts.prompts[i]
        objects = {"ck": self.conflicts.counter_ids[i], "pk": self.conflicts.answer_ids[i]}
        lp = self._log_probs(pair, prompt, 1)[-1]
        found = {"entropy": float(-(lp.exp() * lp).sum())}
        if pair.nd_token is None:
            return found
        found["log_prob_nd"] = float(lp[pair.nd_token])
        for name, ids in objects.items():
            each = self._log_probs(pair, [*prompt, *ids[:-1]], len(ids))
            at_object = each.gather(-1, torch.tensor(ids, device=each.device)[:, None])[:, 0]
            found[f"log_prob_{name}"] = float(lp[ids[0]])
            found[f"object_log_prob_{name}"] = float(at_object.sum())
        return found

    @torch.no_grad()
    def _log_probs(self, pair: Pair, tokens: Sequence[int], keep: int) -> torch.Tensor:
        """Log-probabilities at the last `keep` positions, float64."""
        hooks = variant_hooks(self.model, self.last, pair.group, pair.row, seed=self.seed)
        ids = torch.tensor([list(tokens)], device=self.model.device)
        logits = hooked_forward(self.model.bridge, ids, hooks, logits_to_keep=keep)[0, -keep:]
        return logits.to(self.last.device).double().log_softmax(-1)


def _renumbered(groups: Sequence[VariantGroup], variants: Sequence[int]) -> list[VariantGroup]:
    """The groups without other variants than these, which get their place among them as numbers."""
    number = {variant: i for i, variant in enumerate(variants)}
    found = []
    for group in groups:
        kept = [row for row, v in enumerate(group.variants.tolist()) if v in number]
        if kept:
            new = np.array([number[v] for v in group.variants[kept].tolist()], dtype=group.variants.dtype)
            found.append(VariantGroup(group.neurons, new, group.values[kept], group.draw))
    return found


def sampled(
    drawn: pl.DataFrame, groups: Sequence[VariantGroup], continuations: pl.DataFrame, states: pl.DataFrame
) -> list[Pair]:
    """The pairs with all that the tables say about them."""
    place = {int(v): (group, row) for group in groups for row, v in enumerate(group.variants)}
    tokens = {(row["prompt"], row["continuation"]): row["tokens"] for row in continuations.iter_rows(named=True)}
    read = {
        (row["prompt"], row["variant"]): row
        for row in states.filter(pl.col("route").is_in(WHOLE_ROUTES)).iter_rows(named=True)
    }
    found = []
    for row in drawn.iter_rows(named=True):
        prompt, variant = row["prompt"], row["variant"]
        group, at = place.get(variant, (None, 0))
        state = read.get((prompt, variant))
        values = {"entropy": row["entropy"]} | ({} if state is None else {name: state[name] for name in LOG_PROBS})
        nd_token = None if state is None else state["nd_token"]
        found.append(Pair(prompt, variant, group, at, tuple(tokens[prompt, row["continuation"]]), values, nd_token))
    return found
