"""The part of `fake_stages` that is about heads and neurons: subjoiners, features, probes."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from neuronlab.schemas_stages import STAGES_TABLES

if TYPE_CHECKING:
    from fake_stages import World

WORD = [" de", "token", "iz", "ation", " of", " strange", " words"]
KINDS = (None, "prediction", "suppression", "partition")


def _columns(name: str) -> dict[str, pl.DataType]:
    return {column: spec.dtype for column, spec in STAGES_TABLES[name].items()}


def _interval(name: str, value: float, sd: float, low: float = -np.inf, high: float = np.inf) -> dict[str, float]:
    ends = {name: value, f"{name}_low": value - 1.96 * sd, f"{name}_high": value + 1.96 * sd}
    return {column: float(np.clip(end, low, high)) for column, end in ends.items()}


def subjoiners(world: World) -> pl.DataFrame:
    """One strong head in layer 1 (or the only layer), weak ones in the early layers, nothing later."""
    rows, generator = [], world.generator
    best = (min(1, world.n_layers - 1), world.n_heads - 1)
    halves = {"all": 60, "selection": 32, "report": 28}
    for (half, each), pieces in product(halves.items(), (0, *world.pieces)):
        words = each * len(world.pieces) if pieces == 0 else each
        for layer in range(world.n_layers):
            for head in range(world.n_heads):
                single = 0.1 + 0.03 * generator.random()
                joins = 0.4 if (layer, head) == best else 0.1 * np.exp(-layer) * generator.random()
                joins += 0.01 * generator.standard_normal()
                row = {"half": half, "pieces": pieces, "layer": layer, "head": head}
                row |= {"n_words": words, "n_single": words}
                row |= _interval("attention_word", single + joins, 0.02, 0, 1)
                row |= _interval("attention_single", single, 0.02, 0, 1) | _interval("score", joins, 0.03, -1, 1)
                p_value = 0.001 if joins > 0.06 else float(generator.random())
                n_heads = world.n_layers * world.n_heads
                rows.append(row | {"p_value": p_value, "p_value_holm": min(1.0, n_heads * p_value)})
    return pl.DataFrame(rows, schema=_columns("subjoiners"))


def subjoiner_examples(world: World) -> pl.DataFrame:
    rows, generator = [], world.generator
    best = (min(1, world.n_layers - 1), world.n_heads - 1)
    for example in range(world.examples):
        pieces = 2 + example % 3
        strings = [*WORD[4:], *WORD[4:], *WORD[:pieces]]
        first = len(strings) - pieces
        for query in range(len(strings)):
            weight = np.array([4.0 if first <= key < query and query >= first else 0.5 for key in range(query + 1)])
            weight *= np.exp(0.4 * generator.standard_normal(len(weight)))
            for key, attention in enumerate(weight / weight.sum()):
                rows.append(
                    {
                        "example": example,
                        "layer": best[0],
                        "head": best[1],
                        "query": query,
                        "key": key,
                        "query_string": strings[query],
                        "key_string": strings[key],
                        "in_word": query >= first and key >= first,
                        "attention": float(attention),
                    }
                )
    return pl.DataFrame(rows, schema=_columns("subjoiner_examples"))


def feature_tables(world: World) -> dict[str, pl.DataFrame]:
    """Features, their best neurons (every third one writes against its feature), and histograms of those."""
    features, neurons, histograms, generator = [], [], [], world.generator
    for number, feature in enumerate(world.features):
        n_feature = 40 * (number + 1)
        features.append({"feature": feature, "n_tokens": n_feature, "examples": '[" singing", " king"]'})
        used: set[tuple[int, int]] = set()
        for place in range(world.top):
            layer, neuron = int(generator.integers(world.n_layers)), int(generator.integers(world.n_neurons))
            while (layer, neuron) in used:
                neuron = int(generator.integers(world.n_neurons))
            used.add((layer, neuron))
            difference = (-1 if place % 3 == 2 else 1) * 1.5 * float(np.exp(-place / 8))
            row = {"layer": layer, "neuron": neuron, "feature": feature, "mean_feature": difference, "mean_rest": 0.0}
            row |= {"difference": difference, "effect_size": 2.5 * difference, "t": 12 * difference}
            p_value = float(10 ** (-8 * abs(difference)))
            row |= {"p_value": p_value, "p_value_holm": min(1.0, 1000 * p_value)}
            row |= {"variance_reduction": 0.4 * abs(difference), "skew_reduction": 0.5}
            row |= {"kurtosis_reduction": None if place == world.top - 1 else 0.7, "n_feature": n_feature}
            neurons.append(row | {"kind": KINDS[place % 4], "place": place})
            values = {
                "feature": difference + 0.35 * generator.standard_normal(n_feature),
                "rest": 0.3 * generator.standard_normal(1000),
            }
            edges = np.linspace(-3, 3, 41)
            for group, sample in values.items():
                n, _ = np.histogram(np.clip(sample, -3, 3), edges)
                for i, number_in in enumerate(n):
                    bin_of = {"group": group, "bin_start": edges[i], "bin_end": edges[i + 1], "n": int(number_in)}
                    histograms.append({"layer": layer, "neuron": neuron, "feature": feature} | bin_of)
    return {
        "features": pl.DataFrame(features, schema=_columns("features")),
        "feature_neurons": pl.DataFrame(neurons, schema=_columns("feature_neurons")),
        "feature_histograms": pl.DataFrame(histograms, schema=_columns("feature_histograms")),
    }


def probes(world: World) -> pl.DataFrame:
    """Ensembles ordered by the score rise first, random ones later; the model knows most."""
    rows, generator = [], world.generator
    for number, feature in enumerate(world.features[:2]):
        counts = {"n_train": 4_000, "n_test": 1_000, "n_positive": 60 + 200 * number}

        def row(order: str, size: int, draw: int, accuracy: float, name: str = feature, n: dict = counts) -> dict:
            found = {"feature": name, "order": order, "size": size, "draw": draw} | n
            found |= _interval("accuracy", accuracy, 0.02, 0, 1)
            return found | _interval("auc", min(1.0, accuracy + 0.05), 0.02, 0, 1)

        for size in world.sizes:
            rows.append(row("score", size, -1, 0.9 - 0.35 / (1 + size / 3)))
            for draw in range(world.draws):
                at = 0.75 - 0.25 / (1 + size / 10) + 0.02 * generator.standard_normal()
                rows.append(row("random", size, draw, at))
        rows += [row("single", 1, place, 0.55 + 0.1 / (1 + place)) for place in range(max(world.sizes))]
        rows += [row("model", 0, -1, 0.82), row("mass", 0, -1, 0.9)]
    return pl.DataFrame(rows, schema=_columns("probes"))
