"""Made-up tables of the study of stages, without a model: curves over depth with known borders, and all the rest.

`World()` has 12 layers; `World(n_layers=2)` and `World(n_layers=1)` are the small ones. `tables(world)` gives every
table of `schemas_stages` by name, each checked against its schema. The borders of the four stages lie at
`world.borders` (relative depth): local attention falls at the first, prediction neurons and the lens' agreement rise
from the second, suppression neurons rise from the third.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from itertools import product

import numpy as np
import polars as pl
from fake_stages_neurons import (
    feature_tables,
    probes,
    subjoiner_examples,
    subjoiners,
)
from neuronlab.schemas_stages import INTERVENTIONS, STAGES, STAGES_TABLES
from neuronlab.statistics import wilson_interval
from neuronlab.tables import check_frame

TEXT = "The king of the north rode on and his misunderstanding sang while the cold rain fell over hills"
TOKENS = ["The", *(f" {word}" for word in TEXT.split()[1:]), ",", "\n"]
TOP = {"prediction": 0.10, "suppression": 0.07, "partition": 0.01}


@dataclass(frozen=True)
class World:
    """Sizes of the made-up study."""

    n_layers: int = 12
    n_heads: int = 4
    n_neurons: int = 512
    swaps: str = "adjacent"  # adjacent or all
    interventions: tuple[str, ...] = tuple(INTERVENTIONS)
    borders: tuple[float, float, float] = (0.2, 0.5, 0.85)
    documents: int = 8
    passage_tokens: int = 24
    passages: int = 2
    window: int = 5
    pieces: tuple[int, ...] = (2, 3, 4)
    examples: int = 4
    features: tuple[str, ...] = ("ends_ing", "leading_space", "digits")
    sizes: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    draws: int = 5
    top: int = 10
    noise: float = 0.01  # sd of every estimate, as a share of the curve's range; intervals are as wide as it says
    seed: int = 0
    family: str = "GPT-2"
    vocabulary: tuple[str, ...] = field(default=tuple(TOKENS))

    @property
    def generator(self) -> np.random.Generator:
        return np.random.default_rng(self.seed)

    @property
    def depth(self) -> np.ndarray:
        """Of the layers: layer / (layers - 1)."""
        return np.arange(self.n_layers) / max(self.n_layers - 1, 1)


def ramp(depth: np.ndarray, start: float, end: float = 1.0) -> np.ndarray:
    """0 up to `start`, 1 from `end`, a straight line between."""
    return np.clip((depth - start) / max(end - start, 1e-9), 0, 1)


def interval(name: str, values: np.ndarray, sd: float, *, low: float = -np.inf, high: float = np.inf) -> dict:
    """Columns of an estimate with its 95 % interval, kept within [low, high]."""
    values = np.clip(np.asarray(values, dtype=float), low, high)
    return {
        name: values,
        f"{name}_low": np.clip(values - 1.96 * sd, low, high),
        f"{name}_high": np.clip(values + 1.96 * sd, low, high),
    }


def tables(world: World | None = None) -> dict[str, pl.DataFrame]:
    """Every table of the study, by its schema's name."""
    world = world or World()
    made = {
        "interventions": interventions(world),
        "intervention_costs": costs(world),
        "intervention_verification": verification(world),
        "lens": lens(world),
        "lens_documents": lens_documents(world),
        "lens_tokens": lens_tokens(world),
        **vocabulary(world),
        **attention(world),
        "subjoiners": subjoiners(world),
        "subjoiner_examples": subjoiner_examples(world),
        **feature_tables(world),
        "probes": probes(world),
        "stages": stages(world),
    }
    assert made.keys() == STAGES_TABLES.keys()
    return {name: check_frame(frame, name) for name, frame in made.items()}


def swap_pairs(world: World) -> list[tuple[int, int]]:
    layers = range(world.n_layers)
    if world.swaps == "adjacent":
        return [(i, i + 1) for i in layers[:-1]]
    return [(i, j) for i in layers for j in layers if i < j]


SIZES = {"delete": 1.0, "mean": 0.6, "delete_attention": 0.45, "delete_mlp": 0.8}
SIZES |= {"mean_attention": 0.3, "mean_mlp": 0.5, "swap": 0.7}


def interventions(world: World) -> pl.DataFrame:
    """Layer 0 matters most, the middle hardly, the last layers a little; far swaps more than near ones."""
    rows, generator = [], world.generator
    last = max(world.n_layers - 1, 1)
    for name in world.interventions:
        cells = swap_pairs(world) if name == "swap" else [(layer, None) for layer in range(world.n_layers)]
        for layer, other in cells:
            depth = (layer if other is None else (layer + other) / 2) / last
            apart = 1 if other is None else 0.3 + 0.25 * abs(other - layer)
            kl = SIZES[name] * apart * (4 * np.exp(-layer * 1.2) + 0.25 + 0.8 * ramp(np.array(depth), 0.75))
            kl *= float(np.exp(0.1 * generator.standard_normal()))
            change = {"kl": kl, "loss_change": 0.9 * kl, "entropy_change": 0.4 * kl, "entropy": 3.0 + 0.4 * kl}
            columns = {}
            for quantity, value in change.items():
                columns |= {k: float(v) for k, v in interval(quantity, value, 0.06 * kl + 0.01).items()}
            shares = {"agreement": np.exp(-0.55 * kl), "reciprocal_rank": np.exp(-0.45 * kl)}
            for quantity, value in shares.items():
                columns |= {k: float(v) for k, v in interval(quantity, value, 0.015, low=0, high=1).items()}
            rows.append({"intervention": name, "layer": layer, "other": other, "depth": depth} | columns)
    frame = pl.DataFrame(rows, schema=_columns("interventions", without=("family", "n_tokens", "n_documents")))
    counts = {"n_tokens": pl.lit(7_900), "n_documents": pl.lit(world.documents)}
    return frame.with_columns(family=pl.lit(world.family), **counts)


def costs(world: World) -> pl.DataFrame:
    made = len(interventions(world))
    naive = (made + 1) * world.n_layers
    row = {"interventions": made, "n_layers": world.n_layers, "block_evaluations": world.n_layers + naive // 2}
    return pl.DataFrame([row | {"naive_block_evaluations": naive, "model_loads": 1}])


def verification(world: World) -> pl.DataFrame:
    rows = [
        {"intervention": name, "layer": layer, "other": other, "quantity": quantity, "fast": 0.5 + 1e-8}
        for name, layer, other in interventions(world).select("intervention", "layer", "other").iter_rows()
        for quantity in ("kl", "loss_change", "entropy", "agreement", "reciprocal_rank")
    ]
    frame = pl.DataFrame(
        rows, schema=_columns("intervention_verification", without=("brute_force", "error", "tolerance", "passed"))
    )
    return frame.with_columns(brute_force=pl.lit(0.5), error=pl.lit(1e-8), tolerance=pl.lit(1e-5), passed=pl.lit(True))


def lens_curves(world: World) -> dict[str, np.ndarray]:
    """Entropy, KL, loss, agreement and reciprocal rank at the L + 1 points, without noise."""
    depth = np.arange(world.n_layers + 1) / world.n_layers
    _, second, third = world.borders
    agreement = np.where(depth == 1, 1.0, 0.04 + 0.86 * ramp(depth, second))
    return {
        "entropy": 7.5 - 1.0 * ramp(depth, 0, second) - 3.4 * ramp(depth, second, third),
        "kl": 5.0 * (1 - 0.25 * ramp(depth, 0, second) - 0.75 * ramp(depth, second)),
        "loss": 3.2 + 5.0 * (1 - ramp(depth, second)),
        "agreement": agreement,
        "reciprocal_rank": np.clip(agreement + 0.08, 0, 1),
    }


def lens(world: World) -> pl.DataFrame:
    generator, points = world.generator, world.n_layers + 1
    curves = lens_curves(world)
    columns: dict[str, object] = {"layer": np.arange(points), "depth": np.arange(points) / world.n_layers}
    for name, curve in curves.items():
        sd = world.noise * (np.ptp(curve) or 1.0)
        high = 1.0 if name in ("agreement", "reciprocal_rank") else np.inf
        noisy = curve + sd * generator.standard_normal(points)
        if name in ("agreement", "reciprocal_rank", "kl"):
            noisy[-1] = curve[-1]  # the last point is the model itself
        columns |= interval(name, noisy, sd, low=0, high=high)
        if name == "entropy":
            columns |= {k.replace("entropy", "entropy_bits"): v / np.log(2) for k, v in list(columns.items())[-3:]}
    counts = {"n_tokens": pl.lit(7_900), "n_documents": pl.lit(world.documents)}
    return pl.DataFrame(columns).with_columns(family=pl.lit(world.family), **counts)


def lens_documents(world: World) -> pl.DataFrame:
    generator, curves, frames = world.generator, lens_curves(world), []
    for document in range(world.documents):
        shift = generator.standard_normal(3)
        frames.append(
            pl.DataFrame(
                {
                    "layer": np.arange(world.n_layers + 1),
                    "document": np.full(world.n_layers + 1, document),
                    "n_tokens": np.full(world.n_layers + 1, 200 + 100 * document),
                    "entropy": curves["entropy"] * (1 + 0.06 * shift[0]),
                    "entropy_bits": curves["entropy"] * (1 + 0.06 * shift[0]) / np.log(2),
                    "loss": curves["loss"] * (1 + 0.05 * shift[0]),
                    "reciprocal_rank": np.clip(curves["reciprocal_rank"] ** (1 + 0.08 * shift[2]), 0, 1),
                    "kl": curves["kl"] * (1 + 0.08 * shift[1]),
                    "agreement": np.clip(curves["agreement"] ** (1 + 0.08 * shift[2]), 0, 1),
                }
            )
        )
    return pl.concat(frames)


def lens_tokens(world: World) -> pl.DataFrame:
    generator, rows, n = world.generator, [], world.passage_tokens
    curves, vocabulary = lens_curves(world), world.vocabulary
    factor = np.exp(0.3 * generator.standard_normal(n))
    for passage, layer in product(range(world.passages), range(world.n_layers + 1)):
        last = layer == world.n_layers
        for position in range(1, n + 1):
            settled = last or generator.random() < curves["agreement"][layer]
            top = vocabulary[position % len(vocabulary)] if settled else vocabulary[generator.integers(len(vocabulary))]
            entropy = float(curves["entropy"][layer] * factor[position - 1])
            rows.append(
                {
                    "passage": passage,
                    "layer": layer,
                    "sequence": 3 - passage,
                    "document": 5,
                    "position": position,
                    "token": position,
                    "string": vocabulary[(position - 1) % len(vocabulary)],
                    "entropy": entropy,
                    "entropy_bits": entropy / float(np.log(2)),
                    "loss": float(curves["loss"][layer] * factor[position - 1]),
                    "kl": 0.0 if last else float(curves["kl"][layer] * factor[position - 1]),
                    "rank": 0 if settled else int(1 + 400 * generator.random() ** 3),
                    "top_string": top,
                }
            )
    return pl.DataFrame(rows, schema=_columns("lens_tokens"))


def vocabulary_curves(world: World) -> dict[str, np.ndarray]:
    """Share of each kind of neuron by layer, without noise: prediction falls where suppression takes over."""
    depth, (_, second, third) = world.depth, world.borders
    return {
        "prediction": TOP["prediction"] * ramp(depth, second, third) * (1 - 0.6 * ramp(depth, third)) + 0.002,
        "suppression": TOP["suppression"] * ramp(depth, third, third + 0.75 * (1 - third)) + 0.001,
        "partition": np.full(world.n_layers, TOP["partition"]),
    }


def vocabulary(world: World) -> dict[str, pl.DataFrame]:
    rows, neurons, generator = [], [], world.generator
    for kind, curve in vocabulary_curves(world).items():
        n = np.round(curve * world.n_neurons).astype(int)
        found = wilson_interval(n, np.full(len(n), world.n_neurons))
        threshold = 0.005 if kind == "partition" else 10.0
        for layer in range(world.n_layers):
            share = {"share": found.estimate[layer], "share_low": found.low[layer], "share_high": found.high[layer]}
            row = {"layer": layer, "depth": float(world.depth[layer]), "kind": kind, "n": int(n[layer])}
            row |= {"family": world.family}
            rows.append(row | {"n_neurons": world.n_neurons, "threshold": threshold} | share)
        sign = -1 if kind == "suppression" else 1
        for place in range(world.top):
            strength = float(np.exp(-place / 6))
            tokens = generator.permutation(len(world.vocabulary))[:6]
            strings, others = ([world.vocabulary[i] for i in half] for half in (tokens[:3], tokens[3:]))
            neurons.append(
                {
                    "layer": int(generator.integers(world.n_layers)),
                    "neuron": place * 17 + len(kind),
                    "kind": kind,
                    "place": place,
                    "vocab_var": 0.002 + 0.01 * strength * (kind == "partition"),
                    "vocab_skew": sign * 3 * strength,
                    "vocab_kurt": 3.0 if kind == "partition" else 10 + 60 * strength,
                    "top_tokens": json.dumps(strings, ensure_ascii=False),
                    "bottom_tokens": json.dumps(others, ensure_ascii=False),
                }
            )
    return {
        "vocabulary_counts": pl.DataFrame(rows, schema=_columns("vocabulary_counts")),
        "vocabulary_neurons": pl.DataFrame(neurons, schema=_columns("vocabulary_neurons")),
    }


def attention_curve(world: World) -> np.ndarray:
    """Attention on the previous `window` tokens by layer: high at first, half of it beyond the first border."""
    return 0.65 - 0.35 * ramp(world.depth, world.borders[0] - 0.1, world.borders[0] + 0.1)


def attention(world: World) -> dict[str, pl.DataFrame]:
    """Heads have one decay over offsets; their sum over the window is a little below the window's own measure."""
    generator, curve, heads, bos = world.generator, attention_curve(world), [], []
    decay = np.array([0.0, *0.6 ** np.arange(world.window)])
    for layer in range(world.n_layers):
        for head in range(world.n_heads):
            factor = np.exp(0.3 * generator.standard_normal())
            by_offset = curve[layer] * factor * decay / decay.sum()
            by_offset[0] = 0.1
            values = [("offset", offset, float(value)) for offset, value in enumerate(by_offset)]
            values.append(("window", None, 1.02 * float(by_offset[1:].sum())))
            for measure, offset, value in values:
                row = {"layer": layer, "head": head, "measure": measure, "offset": offset}
                row |= {"n": 7_900 - 64 * (world.window if offset is None else offset)}
                found = {k: float(v) for k, v in interval("attention", value, 0.01, low=0, high=1).items()}
                heads.append(row | {"n_documents": world.documents} | found)
            found = {k: float(v) for k, v in interval("attention", 0.8 - curve[layer], 0.01, low=0, high=1).items()}
            bos.append({"layer": layer, "head": head, "n": 7_900, "n_documents": world.documents} | found)
    sd = world.noise * 0.35
    local, sinks = pl.DataFrame(heads, schema=_columns("local_attention")), pl.DataFrame(bos)
    window = curve + sd * generator.standard_normal(world.n_layers)
    lines = [("window", None, window), ("bos", None, 0.8 - curve)]
    for offset in range(world.window + 1):
        own = local.filter(pl.col("offset") == offset).group_by("layer").agg(pl.col("attention").mean()).sort("layer")
        lines.append(("offset", offset, own["attention"].to_numpy()))
    layers = []
    for measure, offset, values in lines:
        place = {"layer": np.arange(world.n_layers), "depth": world.depth}
        frame = pl.DataFrame(place | interval("attention", values, sd, low=0, high=1))
        more = {"family": world.family, "measure": measure, "window": world.window, "n": 7_500}
        more |= {"n_documents": world.documents}
        frame = frame.with_columns(**{name: pl.lit(value) for name, value in more.items()})
        layers.append(frame.with_columns(offset=pl.lit(offset, pl.Int32)))
    return {
        "local_attention": local,
        "attention_bos": sinks.select(*_columns("attention_bos")),
        "local_attention_layers": pl.concat(layers),
    }


def stages(world: World) -> pl.DataFrame:
    """The true borders; missing below eight layers."""
    there = world.n_layers >= 8
    rows = []
    for border, depth in enumerate(world.borders):
        layer = depth * (world.n_layers - 1)
        rows.append(
            {
                "border": border,
                "before": STAGES[border],
                "after": STAGES[border + 1],
                "rule": "as made up",
                "layer": layer if there else None,
                "layer_low": layer - 0.6 if there else None,
                "layer_high": layer + 0.8 if there else None,
                "depth": depth if there else None,
                "reason": None if there else "not estimated below 8 layers",
            }
        )
    return pl.DataFrame(rows, schema=_columns("stages"))


def _columns(name: str, without: tuple[str, ...] = ()) -> dict[str, pl.DataType]:
    return {column: spec.dtype for column, spec in STAGES_TABLES[name].items() if column not in without}
