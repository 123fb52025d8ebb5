"""Plausible tables without a model: what the figures and cards are developed and tested on.

`fake_tables(...)` yields one frame per schema, consistent with one another: the same neurons are entropy
neurons everywhere, effects are means of the same order as the traces, controls belong to their set.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl
from neuronlab.schemas import SCHEMAS, VARIANTS
from neuronlab.tables import check_frame, write_table

WORDS = [
    "the",
    "of",
    "marlow",
    "Tessa",
    "river",
    "was",
    "born",
    "in",
    "a",
    "small",
    "<b>town</b>",
    "&",
    "went",
    "to",
    "old",
    "harbour",
    "",
    "by",
    "night",
    "\n",
    "said",
]


@dataclass
class World:
    """Sizes of the made-up model and text."""

    n_layers: int = 2
    n_neurons: int = 512
    d_model: int = 128
    k: int = 8
    n_entropy: int = 6
    n_frequency: int = 5
    n_controls: int = 20
    n_sequences: int = 24
    length: int = 48
    seed: int = 0
    replacement: str = "mean"
    entropy: list[int] = field(init=False)
    frequency: list[int] = field(init=False)
    uniform: list[int] = field(init=False)
    matched: list[int] = field(init=False)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        order = [int(i) for i in rng.permutation(self.n_neurons)]
        cuts = np.cumsum([self.n_entropy, self.n_frequency, self.n_controls, self.n_entropy])
        self.entropy, self.frequency, self.uniform, self.matched = (
            order[: cuts[0]],
            order[cuts[0] : cuts[1]],
            order[cuts[1] : cuts[2]],
            order[cuts[2] : cuts[3]],
        )

    @property
    def last(self) -> int:
        return self.n_layers - 1


def _neurons(world: World, rng: np.random.Generator) -> pl.DataFrame:
    frames = []
    for layer in range(world.n_layers):
        n = world.n_neurons
        norm = np.exp(rng.normal(0.6, 0.16, n))
        logit_var = np.exp(rng.normal(np.log(8e-3), 0.25, n))
        kurt = 3 + rng.exponential(0.6, n)
        if layer == world.last:
            norm[world.entropy] = np.linspace(2.6, 4.6, len(world.entropy))
            norm[world.matched] = norm[world.entropy] * rng.uniform(0.75, 0.98, len(world.entropy))
            logit_var[world.entropy] = np.exp(rng.normal(np.log(9e-4), 0.3, len(world.entropy)))
        frames.append(
            pl.DataFrame(
                {
                    "layer": np.full(n, layer),
                    "neuron": np.arange(n),
                    "norm": norm,
                    "norm_in": np.exp(rng.normal(0.2, 0.2, n)),
                    "logit_var": logit_var,
                    "vocab_mean": rng.normal(0, 1e-3, n),
                    "vocab_var": logit_var * 0.999,
                    "vocab_skew": rng.normal(0, 0.4, n),
                    "vocab_kurt": kurt,
                    "unembed_gain": np.sqrt(logit_var / 8e-3),
                }
            )
        )
    return pl.concat(frames)


def _null_space(world: World, rng: np.random.Generator) -> pl.DataFrame:
    frames = []
    for k, rule in ((world.k, "configured"), (max(world.k // 2, 1), "automatic")):
        for layer in range(world.n_layers):
            n = world.n_neurons
            expected = np.sqrt(k / world.d_model)
            rho = np.clip(rng.normal(expected, 0.06, n), 0.01, 0.7)
            if layer == world.last:
                rho[world.entropy] = np.linspace(0.82, 0.97, len(world.entropy))
            frames.append(
                pl.DataFrame(
                    {
                        "layer": np.full(n, layer),
                        "neuron": np.arange(n),
                        "k": np.full(n, k),
                        "k_rule": [rule] * n,
                        "rho": rho,
                        "rho_excess": rho - expected,
                        "rho_p_value": np.clip(rng.uniform(size=n), 0, 1),
                    }
                )
            )
    return pl.concat(frames)


def _singular_values(world: World, rng: np.random.Generator) -> pl.DataFrame:
    d, tail = world.d_model, world.k // 2
    values = 12 * np.exp(-np.linspace(0, 1.2, d))
    values[-tail:] *= np.linspace(0.45, 0.12, tail)
    values = np.sort(values)[::-1]
    values[-1] = 3e-7
    ratio = [float(a / b) for a, b in itertools.pairwise(values)] + [None]
    return pl.DataFrame(
        {
            "index": np.arange(d),
            "singular_value": values,
            "ratio": pl.Series(ratio, dtype=pl.Float64),
            "automatic": np.arange(d) >= d - tail,
            "exact_null": np.arange(d) == d - 1,
            "automatic_p_value": np.full(d, 0.01),
        }
    )


def _alignment(world: World, rng: np.random.Generator) -> pl.DataFrame:
    rows = []
    d = world.d_model
    for name, neurons in (("entropy", world.entropy), ("entropy_uniform", world.uniform[:6])):
        for neuron in neurons:
            w = rng.normal(size=d)
            w[-1] = 0
            if name == "entropy":
                w[-world.k // 2 : -1] *= 14
            cosine = w / np.linalg.norm(w)
            rows.append(
                pl.DataFrame(
                    {
                        "layer": np.full(d, world.last),
                        "neuron": np.full(d, neuron),
                        "set": [name] * d,
                        "index": np.arange(d),
                        "cosine": cosine,
                    }
                )
            )
    return pl.concat(rows)


def _selection(world: World) -> pl.DataFrame:
    rows = []

    def add(name: str, kind: str, rule: str, of: str | None, neurons: list[int], matched: list[int] | None = None):
        for rank, neuron in enumerate(neurons):
            rows.append(
                {
                    "set": name,
                    "kind": kind,
                    "rule": rule,
                    "control_of": of,
                    "layer": world.last,
                    "neuron": neuron,
                    "rank": rank,
                    "matched": matched[rank] if matched else None,
                    "norm_ratio": 0.9 if matched else None,
                }
            )

    add("entropy", "selection", "rho_threshold", None, world.entropy)
    add("token_frequency", "selection", "frequency_mediation", None, world.frequency)
    add("entropy_uniform", "uniform", "uniform", "entropy", world.uniform)
    add("entropy_norm_matched", "norm_matched", "norm_matched", "entropy", world.matched, world.entropy)
    return pl.DataFrame(rows, schema={name: spec.dtype for name, spec in SCHEMAS["selection"].items()})


def _effect_columns(world: World, n: int, scale: np.ndarray, m: np.ndarray, m_freq: np.ndarray, rng) -> dict:
    columns: dict[str, np.ndarray] = {
        "n_tokens": np.full(n, world.n_sequences * (world.length - 4)),
        "n_documents": np.full(n, world.n_sequences),
    }

    def interval(name: str, value: np.ndarray, width: float = 0.06, least: float = 0.0) -> None:
        half = np.abs(value) * width * rng.uniform(0.6, 1.5, n) + least
        columns[name], columns[f"{name}_low"], columns[f"{name}_high"] = value, value - half, value + half

    for outcome, factor in (("loss", 1.0), ("entropy", 1.3), ("kl", 0.8)):
        te = scale * factor * np.exp(rng.normal(0, 0.1, n))
        interval(f"te_{outcome}", te)
        interval(f"de_{outcome}", te * (1 - m))
        interval(f"m_{outcome}", m, 0.05, 0.01)
        interval(f"de_freq_{outcome}", te * (1 - m_freq))
        interval(f"m_freq_{outcome}", m_freq, 0.05, 0.01)
        total = te * rng.normal(0, 0.4, n)
        interval(f"total_{outcome}", total, 0.3)
        interval(f"direct_{outcome}", total * (1 - m), 0.3)
        interval(f"indirect_{outcome}", total * m * 0.9, 0.3)
        interval(f"interaction_{outcome}", total * m * 0.1, 0.3)
    change = np.clip(scale * rng.uniform(0.2, 0.6, n), 0, 1)
    interval("prediction_change", change)
    interval("prediction_change_direct", change * (1 - 0.5 * m))
    interval("reciprocal_rank_change", change * 0.4)
    interval("reciprocal_rank_change_direct", change * 0.3)
    return columns


def _effects(world: World, rng: np.random.Generator) -> pl.DataFrame:
    n = world.n_neurons
    scale = np.exp(rng.normal(np.log(4e-3), 0.7, n))
    m = np.clip(rng.normal(-0.05, 0.12, n), -1.5, 0.5)
    m[rng.integers(0, n, 2)] = -3.4
    m_freq = np.clip(rng.normal(0.0, 0.07, n), -0.4, 0.4)
    scale[world.entropy], m[world.entropy] = np.linspace(0.012, 0.05, len(world.entropy)), 0.78
    m[world.entropy] += np.linspace(-0.2, 0.1, len(world.entropy))
    scale[world.frequency], m_freq[world.frequency] = 0.02, 0.45
    columns = _effect_columns(world, n, scale, m, m_freq, rng)
    columns["prediction_change"][world.entropy] *= 0.25
    frame = pl.DataFrame(
        {"replacement": [world.replacement] * n, "layer": np.full(n, world.last), "neuron": np.arange(n), **columns}
    )
    silent = pl.col("neuron").is_in(world.uniform[:2])
    gone = [f"m_{o}{end}" for o in ("loss", "entropy", "kl") for end in ("", "_low", "_high")]
    return frame.with_columns(pl.when(silent).then(None).otherwise(pl.col(c)).alias(c) for c in gone)


def _synthetic(world: World, rng: np.random.Generator) -> pl.DataFrame:
    draws = 10
    neurons = np.repeat(world.entropy, draws)
    n = len(neurons)
    scale = np.exp(rng.normal(np.log(1.6e-2), 0.25, n))
    columns = _effect_columns(world, n, scale, rng.normal(0.1, 0.08, n), np.zeros(n), rng)
    return pl.DataFrame(
        {
            "replacement": [world.replacement] * n,
            "layer": np.full(n, world.last),
            "neuron": neurons,
            "draw": np.tile(np.arange(draws), len(world.entropy)),
            **columns,
        }
    )


def _tokens(world: World, rng: np.random.Generator) -> pl.DataFrame:
    ids = rng.zipf(1.5, size=(world.n_sequences, world.length)) % len(WORDS) + 1
    ids[:, 0] = 0
    counted = np.ones_like(ids, dtype=bool)
    counted[:, :3] = False
    counted[:, -1] = False
    documents = np.tile(np.arange(world.n_sequences)[:, None], (1, world.length))
    documents[:, 0] = -1
    return pl.DataFrame(
        {
            "sequence": np.arange(world.n_sequences),
            "tokens": ids.tolist(),
            "documents": documents.tolist(),
            "counted": counted.tolist(),
        }
    )


def _traces(world: World, tokens: pl.DataFrame, rng: np.random.Generator) -> pl.DataFrame:
    ids = np.array(tokens["tokens"].to_list())
    counted = np.array(tokens["counted"].to_list())
    sequence, position = np.nonzero(counted)
    n = len(sequence)
    frames = []
    entropy = rng.gamma(3.0, 1.0, n)
    loss = entropy * rng.gamma(2.0, 0.5, n)
    for neuron in [*world.entropy, *world.frequency, *world.uniform, *world.matched]:
        special = neuron in world.entropy
        activation = np.abs(rng.normal(0, 1.0, n)) ** 1.6 - 0.15
        delta = activation.mean() - activation
        size = (0.03 if special else 0.004) * np.exp(rng.normal(0, 0.3))
        rows = {
            "replacement": [world.replacement] * n,
            "layer": np.full(n, world.last),
            "neuron": np.full(n, neuron),
            "sequence": sequence,
            "position": position,
            "document": sequence,
            "token": ids[sequence, position],
            "next_token": ids[sequence, position + 1],
            "activation": activation,
            "value": np.full(n, activation.mean()),
            "loss": loss,
            "entropy": entropy,
            "rank": rng.integers(0, 20, n),
            "prediction": rng.integers(1, len(WORDS), n),
        }
        direct_share = 0.25 if special else 1.0
        for outcome, sign in (("loss", -1), ("entropy", -1), ("kl", 1)):
            total = sign * delta * size * rng.gamma(2.0, 0.5, n)
            shares = {"total": 1.0, "direct": direct_share, "norm": 1 - direct_share, "unigram": 0.8}
            for variant in VARIANTS:
                rows[f"{outcome}_{variant}"] = total * shares[variant] * rng.normal(1, 0.1, n)
        for variant in ("total", "direct"):
            rows[f"prediction_{variant}"] = rows["prediction"]
            rows[f"rank_{variant}"] = rows["rank"]
        frames.append(pl.DataFrame(rows))
    return pl.concat(frames)


def _activation_statistics(world: World, rng: np.random.Generator) -> pl.DataFrame:
    n, bins = world.n_neurons, 64
    peak = rng.integers(2, 8, n)[:, None]
    histogram = np.exp(-np.abs(np.arange(bins)[None] - peak) / 5) * 4000 * rng.uniform(0.6, 1.4, (n, bins))
    low, high = np.full(n, -0.17), rng.uniform(2, 9, n)
    mean = low + 0.15 * (high - low)
    return pl.DataFrame(
        {
            "layer": np.full(n, world.last),
            "neuron": np.arange(n),
            "n_tokens": histogram.astype(int).sum(1),
            "mean": mean,
            "sd": 0.1 * (high - low),
            "min": low,
            "max": high,
            "median": mean * 0.8,
            "mode": low + (peak[:, 0] + 0.5) / bins * (high - low),
            "skew": rng.normal(2, 0.3, n),
            "kurtosis": rng.normal(9, 2, n),
            "histogram": histogram.astype(int).tolist(),
            "position_means": [[0.1] * world.length] * n,
        }
    )


def _verification(world: World, rng: np.random.Generator) -> pl.DataFrame:
    frames = []
    for tier, n in (("readout", 800), ("forward", 200)):
        effect = np.exp(rng.normal(np.log(3e-3), 2.5, n)) * rng.choice([-1, 1], n)
        error = np.abs(rng.normal(0, 2e-8, n)) + np.abs(effect) * np.abs(rng.normal(0, 8e-7, n))
        error[:3] = 0.0
        tolerance = 1e-6 + 1e-5 * np.abs(effect)
        frames.append(
            pl.DataFrame(
                {
                    "tier": [tier] * n,
                    "replacement": [world.replacement] * n,
                    "layer": np.full(n, world.last),
                    "neuron": rng.integers(0, world.n_neurons, n),
                    "sequence": rng.integers(0, world.n_sequences, n),
                    "position": rng.integers(3, world.length - 1, n),
                    "stratum": rng.integers(0, 4, n),
                    "variant": rng.choice(list(VARIANTS), n),
                    "outcome": rng.choice(["loss", "entropy", "kl"], n),
                    "closed_form": effect + error,
                    "brute_force": effect,
                    "error": error,
                    "tolerance": tolerance,
                    "passed": error <= tolerance,
                }
            )
        )
    return pl.concat(frames)


def _published(world: World, rng: np.random.Generator) -> pl.DataFrame:
    rows = []
    for neuron in world.entropy:
        for measure, value, k in (("rho", 0.95, 40), ("logit_var", 8e-5, None), ("norm", 8.0, None)):
            published = value * float(np.exp(rng.normal(0, 0.05)))
            missing = neuron == world.entropy[0] and measure == "norm"
            error = None if missing else float(rng.normal(0, 8e-5))
            rows.append(
                {
                    "study": "context_copying",
                    "layer": world.last,
                    "neuron": neuron,
                    "k": k,
                    "measure": measure,
                    "published": None if missing else published,
                    "ours": 8.0 if error is None else published * (1 + error),
                    "relative_error": error,
                }
            )
    return pl.DataFrame(rows, schema={name: spec.dtype for name, spec in SCHEMAS["published"].items()})


def _boosted(world: World, rng: np.random.Generator, n: int = 10) -> pl.DataFrame:
    rows = []
    for neuron in [*world.entropy, *world.frequency]:
        for rank in [*range(n), *range(-n, 0)]:
            size = 0.4 - 0.02 * (rank if rank >= 0 else -rank - 1)
            token = int(rng.integers(1, len(WORDS)))
            rows.append((world.last, neuron, rank, token, WORDS[token], size if rank >= 0 else -size))
    return pl.DataFrame(rows, schema=list(SCHEMAS["boosted_tokens"]), orient="row")


def fake_tables(world: World | None = None) -> dict[str, pl.DataFrame]:
    """Every table that a figure or a card reads, checked against its schema."""
    world = world or World()
    rng = np.random.default_rng(world.seed + 1)
    tokens = _tokens(world, rng)
    strings = ["<|bos|>", *WORDS]
    frames = {
        "neurons": _neurons(world, rng),
        "null_space": _null_space(world, rng),
        "singular_values": _singular_values(world, rng),
        "alignment": _alignment(world, rng),
        "selection": _selection(world),
        "effects": _effects(world, rng),
        "synthetic": _synthetic(world, rng),
        "tokens": tokens,
        "traces": _traces(world, tokens, rng),
        "activation_statistics": _activation_statistics(world, rng),
        "verification": _verification(world, rng),
        "published": _published(world, rng),
        "boosted_tokens": _boosted(world, rng),
        "token_strings": pl.DataFrame({"token": range(len(strings)), "string": strings}),
    }
    return {name: check_frame(_completed(frame, name), name) for name, frame in frames.items()}


def _completed(frame: pl.DataFrame, name: str) -> pl.DataFrame:
    """Columns of the schema that no figure reads get a constant, so that a new column needs no edit here."""
    fill = {pl.String: "", pl.Boolean: False}
    missing = {column: spec for column, spec in SCHEMAS[name].items() if column not in frame.columns}
    return frame.with_columns(
        pl.lit(fill.get(spec.dtype, 0), spec.dtype).alias(column) for column, spec in missing.items()
    )


def write_fake_tables(folder: Path, world: World | None = None) -> dict[str, Path]:
    """Write every fake table below `folder`; returns their paths by schema name."""
    paths = {}
    for name, frame in fake_tables(world).items():
        paths[name] = folder / f"{name}.parquet"
        write_table(frame, paths[name], name)
    return paths
