"""A made-up study of context copying, without a model: inputs are simulated, scores are what the rule makes of them.

`World()` is a small, realistic one; `World(n_facts=0)` has no prompt, `World(shares=(1, 0, 0))` answers from the
context alone, `World(selections=())` has no set. `tables(world)` gives every table of the study by its schema's name
(shards together in one); `write_inputs` and `score` work on files.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl
from neuronlab.copying_frames import frame_of
from neuronlab.copying_scores import score_copying
from neuronlab.schemas_knowledge import LABELS
from neuronlab.tables import check_frame, read_table, write_table

RELATIONS = ("capital", "language", "religion", "employer")
SCORES = {
    "class_counts": "class_counts",
    "transitions": "transitions",
    "scores": "copying_scores",
    "control_tests": "control_tests",
    "relations": "copying_relations",
    "doses": "copying_doses",
    "flips": "flips",
    "flip_prediction": "flip_prediction",
    "examples": "copying_examples",
}
INPUTS = {
    "facts": "facts",
    "conflicts": "conflicts",
    "variants": "variants",
    "verification": "decoding_verification",
}
SHARDED = ("decoded", "continuations", "states")


@dataclass(frozen=True)
class World:
    """Sizes of the made-up study, and how strongly its sets act."""

    n_facts: int = 60
    counters: int = 3
    selections: tuple[str, ...] = ("entropy", "token_frequency")
    replacements: tuple[str, ...] = ("mean", "median", "zero")
    uniform: int = 12
    norm_matched: int = 12
    synthetic: int = 12
    doses: int = 5
    dose_controls: int = 3
    shares: tuple[float, float, float] = (0.5, 0.25, 0.25)  # of the clean labels CK, ND, PK
    flip: float = 0.15  # share of labels that the first selection changes; a control a tenth
    shards: int = 2
    k: int = 4  # neurons of a set
    seed: int = 0

    @property
    def n_prompts(self) -> int:
        return self.n_facts * self.counters

    def rng(self, stream: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, stream])

    @cached_property
    def facts(self) -> pl.DataFrame:
        rows = []
        for fact in range(self.n_facts):
            relation = RELATIONS[fact % len(RELATIONS)]
            query = f"The {relation} of Land{fact} is"
            row = {"fact": fact, "subject": f"Land{fact}", "relation": relation, "relation_group": relation}
            row |= {"phrase": relation, "object": f"True{fact}", "query": query, "statement": f"{query} True{fact}."}
            rows.append(row | {"subset": ("held_out", "contradicted", None)[fact % 3]})
        return frame_of(rows, "facts")

    @cached_property
    def conflicts(self) -> pl.DataFrame:
        rows = []
        for prompt in range(self.n_prompts):
            fact = self.facts.row(prompt // self.counters, named=True)
            counter = f"Counter{prompt}"
            row = {name: fact[name] for name in ("fact", "relation", "subset")} | {"prompt": prompt}
            row |= {"counter": counter, "answer": fact["object"]}
            row |= {"text": f"{fact['query']} {counter}. {fact['query']}", "tokens": [0, 5, 6, 7]}
            rows.append(row | {"counter_ids": [8, 9], "answer_ids": [10]})
        return frame_of(rows, "conflicts")

    @cached_property
    def funnel(self) -> pl.DataFrame:
        steps = ["facts", "answered", "containment", "similarity", "example", "overlap", "counter-objects", "prompts"]
        n = [self.n_facts + 5 * (len(steps) - 1 - place) for place in range(len(steps))]
        rows = [
            {
                "order": place,
                "step": step,
                "meaning": f"what {step} takes away",
                "n_facts": n[place],
                "n_relations": min(n[place], len(RELATIONS)),
                "n_prompts": self.n_prompts if step == "prompts" else None,
            }
            for place, step in enumerate(steps)
        ]
        return frame_of(rows, "funnel")

    def sets_of(self, selection: str) -> list[tuple[str, str, str | None]]:
        """(set, kind, control_of) of a selection and its controls."""
        found: list[tuple[str, str, str | None]] = [(selection, "selection", None)]
        for kind in ("uniform", "norm_matched", "synthetic"):
            found += [(f"{selection}_{kind}_{i:03d}", kind, selection) for i in range(getattr(self, kind))]
        return found

    @cached_property
    def variants(self) -> pl.DataFrame:
        rows = [("clean", "clean", None, "none", None, 0)]
        for selection in self.selections:
            clamped = dict.fromkeys(("selection", "uniform", "norm_matched", "synthetic"), 0)
            for name, kind, of in self.sets_of(selection):
                rows += [(name, kind, of, replacement, None, self.k) for replacement in self.replacements]
                clamped[kind] += 1
                if kind == "selection" or clamped[kind] <= self.dose_controls:
                    rows += [(name, kind, of, "dose", dose, self.k) for dose in np.linspace(0, 1, self.doses)]
        columns = ["set", "kind", "control_of", "replacement", "dose", "n_neurons"]
        frame = pl.DataFrame(rows, schema=columns, orient="row", infer_schema_length=None).with_row_index("variant")
        return check_frame(frame, "variants")

    @cached_property
    def copying_sets(self) -> pl.DataFrame:
        rng, rows = self.rng(1), []
        for selection in self.selections:
            own = np.sort(rng.choice(500, self.k, replace=False))
            for name, kind, of in self.sets_of(selection):
                neurons = own if kind in ("selection", "synthetic") else rng.choice(500, self.k, replace=False)
                for rank, neuron in enumerate(neurons):
                    matched = kind == "norm_matched"
                    row = {"set": name, "kind": kind, "control_of": of, "layer": 1, "neuron": int(neuron)}
                    row |= {"rank": rank, "norm": float(rng.uniform(1, 3))}
                    row |= {"matched": int(own[rank]) if matched else None}
                    row |= {"norm_ratio": float(rng.normal(1, 0.05)) if matched else None}
                    rows.append(row | {"draw": int(name[-3:]) if kind == "synthetic" else None})
        return frame_of(rows, "copying_sets")

    def strength(self, row: dict) -> float:
        """How strongly a variant acts, between -1 and 1."""
        of = row["control_of"] or row["set"]
        if row["kind"] == "clean":
            return 0.0
        strength = 1.0 if of == self.selections[0] else 0.4
        if row["kind"] != "selection":
            strength *= 0.1
        if row["replacement"] == "dose":
            return strength * (1 - 2 * row["dose"])
        return strength * {"zero": 1.5}.get(row["replacement"], 1.0)

    @cached_property
    def simulated(self) -> tuple[np.ndarray, np.ndarray]:
        """Labels and entropies (nats), [variants, prompts]; prompts of one fact resemble one another."""
        rng, n = self.rng(2), self.n_prompts
        base = np.repeat(rng.normal(2, 0.5, self.n_facts), self.counters) + rng.normal(0, 0.2, n)
        usual = rng.choice(3, self.n_facts, p=np.array(self.shares) / sum(self.shares))
        own = rng.choice(3, n, p=np.array(self.shares) / sum(self.shares))
        clean = np.where(rng.random(n) < 0.7, np.repeat(usual, self.counters), own)
        labels, entropy = [], []
        for row in self.variants.iter_rows(named=True):
            strength = self.strength(row)
            reach = rng.gamma(2, 0.5, n)  # how near the prompt is to a boundary
            change = -0.2 * strength * reach + (rng.normal(0, 0.01, n) if row["kind"] != "clean" else 0)
            flips = rng.random(n) < self.flip * abs(strength) * reach
            to = np.where(clean == 0, 2, 0) if strength > 0 else np.where(clean == 1, 2, 1)
            labels.append(np.where(flips, to, clean))
            entropy.append(np.maximum(base + change, 0.01))
        return np.array(labels, np.int8).reshape(len(labels), n), np.array(entropy).reshape(len(labels), n)

    @cached_property
    def decoded(self) -> pl.DataFrame:
        labels, entropy = self.simulated
        variant, prompt = np.indices(labels.shape)
        columns = {"prompt": prompt, "variant": variant, "continuation": labels.astype(int), "entropy": entropy}
        frame = pl.DataFrame({name: values.ravel() for name, values in columns.items()})
        label = pl.Series("label", np.array(LABELS)[labels.ravel()].tolist(), dtype=pl.String)
        return check_frame(frame.with_columns(label).sort("prompt", "variant"), "decoded")

    @cached_property
    def continuations(self) -> pl.DataFrame:
        rows = []
        for prompt in self.conflicts.iter_rows(named=True):
            answers = (prompt["counter"], "Nowhere", prompt["answer"])
            for place, (label, answer) in enumerate(zip(LABELS, answers, strict=True)):
                row = {"prompt": prompt["prompt"], "continuation": place, "tokens": [20 + place, 3]}
                rows.append(row | {"text": f" {answer}. And", "answer": answer, "label": label})
        return frame_of(rows, "continuations")

    @cached_property
    def states(self) -> pl.DataFrame:
        """Clean, and every selection's variants (clamped ones left out) by every route."""
        rng, n = self.rng(3), self.n_prompts
        labels, entropy = self.simulated
        competitor = rng.integers(30, 40, n)
        clean = {f"log_prob_{name}": -rng.gamma(2, 1.0, n) for name in ("ck", "pk", "nd")}
        frames = []
        chosen = self.variants.filter(
            (pl.col("kind").is_in(["clean", "selection"])) & (pl.col("replacement") != "dose")
        )
        for row in chosen.iter_rows(named=True):
            variant = row["variant"]
            change = entropy[variant] - entropy[0]
            for route in ("clean",) if variant == 0 else ("total", "direct", "norm"):
                part = {"clean": 0.0, "total": 1.0, "direct": 0.3, "norm": 0.7}[route]
                moved = part * change
                logs = {name: values + moved * rng.normal(1, 0.3, n) - 1e-3 for name, values in clean.items()}
                whole = route in ("clean", "total")
                top = np.where((labels[variant] != labels[0]) & (rng.random(n) < part), 7, 6)
                columns = {"prompt": np.arange(n), "variant": np.full(n, variant), "entropy": entropy[0] + moved}
                columns |= logs | {"nd_token": competitor, "top_token": top}
                objects = {
                    f"object_{name}": (logs[name] - 1).tolist() if whole else [None] * n for name in list(logs)[:2]
                }
                frame = pl.DataFrame(columns).with_columns(
                    pl.lit(route).alias("route"),
                    *(pl.Series(name, values, dtype=pl.Float64) for name, values in objects.items()),
                )
                frames.append(check_frame(frame, "states"))
        return pl.concat(frames).sort("prompt", "variant", maintain_order=True)

    @cached_property
    def verification(self) -> pl.DataFrame:
        rows = []
        for prompt in range(min(3, self.n_prompts)):
            common = {"prompt": prompt, "variant": min(1, len(self.variants) - 1), "passed": True}
            rows.append(
                common
                | {"tier": "generation", "quantity": "tokens", "fast": 5.0, "brute_force": 5.0}
                | {"error": 0.0, "tolerance": 1e-4}
            )
            rows.append(
                common
                | {"tier": "readout", "quantity": "entropy", "fast": 2.0, "brute_force": 2.0 + 1e-8}
                | {"error": 1e-8, "tolerance": 1e-6}
            )
        return frame_of(rows, "decoding_verification")


def write_inputs(world: World, folder: Path) -> dict[str, object]:
    """Write what `score_copying` reads; its keywords."""
    keywords: dict[str, object] = {}
    for name, schema in INPUTS.items():
        write_table(getattr(world, name), folder / f"{name}.parquet", schema)
        keywords[name] = folder / f"{name}.parquet"
    for name in SHARDED:
        frame, paths = getattr(world, name), []
        for shard in range(world.shards):
            paths.append(folder / "shards" / str(shard) / f"{name}.parquet")
            write_table(frame.filter(pl.col("prompt") % world.shards == shard), paths[-1], name)
        keywords[name] = paths
    return keywords


def score(world: World, folder: Path, **changes: object) -> dict[str, pl.DataFrame]:
    """Write the inputs, run the rule, and read every table that it writes, by schema; `changes` replace keywords."""
    keywords = write_inputs(world, folder) | {name: folder / f"{name}.parquet" for name in SCORES}
    keywords |= {"replacement": world.replacements[0], "examples_per_set": 6, "resamples": 200, "seed": 1}
    score_copying(**keywords | changes)
    return {schema: read_table(keywords[name], schema) for name, schema in SCORES.items()}


def tables(world: World | None = None) -> dict[str, pl.DataFrame]:
    """Every table of the made-up study, by its schema's name."""
    world = world or World()
    with tempfile.TemporaryDirectory() as folder:
        scored = score(world, Path(folder))
    own = ("facts", "conflicts", "funnel", "variants", "copying_sets", "decoded", "continuations", "states")
    return {name: getattr(world, name) for name in own} | {"decoding_verification": world.verification} | scored
