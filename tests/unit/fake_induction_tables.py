"""Plausible tables about attention heads, without a model: what their figures are developed and tested on.

Heads `INDUCTION[0]`, `INDUCTION[1]`, ... have falling scores, all above 0.7; neurons of `World.entropy` react to them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from neuronlab.schemas import SCHEMAS
from neuronlab.tables import check_frame

QUANTITIES = {"entropy": 2.0, "loss": 2.5, "norm_scale": 5.0, "residual_norm": 60.0, "top_logit": 12.0, "kl": 0.0}


@dataclass
class World:
    """Sizes of the made-up model and repetition."""

    n_layers: int = 4
    n_heads: int = 6
    length: int = 20
    n_sequences: int = 32
    entropy: tuple[int, ...] = (70, 30, 110, 50)
    others: tuple[int, ...] = (200, 201)
    methods: tuple[str, ...] = ("bos", "mean")
    n_induction: int = 3
    baselines: int = 3
    seed: int = 0

    @property
    def heads(self) -> list[tuple[int, int]]:
        return [(layer, head) for layer in range(self.n_layers) for head in range(self.n_heads)]

    @property
    def induction(self) -> list[tuple[int, int]]:
        """The induction heads, best first."""
        late = [place for place in self.heads if place[0] >= self.n_layers // 2]
        return [late[i * 5 % len(late)] for i in range(self.n_induction)]

    def name(self, *heads: tuple[int, int]) -> str:
        return "+".join(f"{layer}.{head}" for layer, head in heads)


def fake_heads(world: World) -> pl.DataFrame:
    """Table `induction_heads`: three sources."""
    rng = np.random.default_rng(world.seed)
    frames = []
    for source, strength in (("random", 1.0), ("synthetic", 0.9), ("natural", 0.55)):
        n = len(world.heads)
        score = np.abs(rng.normal(0, 0.04, n))
        for place, head in enumerate(world.induction):
            score[world.heads.index(head)] = strength * (0.95 - 0.08 * place)
        first = rng.uniform(0.2, 0.9, n)
        frame = pl.DataFrame(
            {
                "source": [source] * n,
                "layer": [layer for layer, _ in world.heads],
                "head": [head for _, head in world.heads],
                "previous_token": np.clip(rng.uniform(0, 0.5, n), 0, 1),
                "bos_first": first,
                "bos_second": first * np.where(score > 0.3, 0.2, 1.0),
                "is_induction": score > 0.7,
                "rank": np.argsort(np.argsort(-score)),
                "n_sequences": np.full(n, world.n_sequences),
                "score": score,
                "score_low": np.clip(score - 0.02, 0, 1),
                "score_high": np.clip(score + 0.02, 0, 1),
            }
        )
        frames.append(frame)
    return check_frame(pl.concat(frames), "induction_heads")


def fake_head_ablation(world: World) -> pl.DataFrame:
    """Table `head_ablation`: top sets, single heads, a configured set, baselines of the top sets."""
    rng = np.random.default_rng(world.seed + 1)
    top = [world.induction[: i + 1] for i in range(len(world.induction))]
    sets = [("top", None, heads) for heads in top] + [("single", None, heads[-1:]) for heads in top[1:]]
    plain = [head for head in world.heads if head not in world.induction]
    for heads in top:
        for draw in range(world.baselines):
            sets.append(("baseline", world.name(*heads), [plain[(draw + i) % len(plain)] for i in range(len(heads))]))
    position = np.arange(2 * world.length)
    copied = position >= world.length
    tracked = [("activation", neuron) for neuron in (*world.entropy, *world.others)]
    frames = []
    for method in world.methods:
        for role, of, heads in sets:
            strength = 0.0 if role == "baseline" else sum(h in world.induction for h in heads)
            for quantity, neuron in [*tracked, *((name, None) for name in QUANTITIES)]:
                n = len(position)
                if quantity == "activation":
                    # Entropy neurons react the more, the earlier they stand in the set; others do not react.
                    place = world.entropy.index(neuron) if neuron in world.entropy else None
                    size = 0.0 if place is None else 1.0 / (place + 1)
                    clean = 0.4 + size * copied * (1 - np.exp(-(position % world.length) / 4))
                    change = -0.25 * strength * size * copied
                else:
                    clean = QUANTITIES[quantity] * (1 - 0.5 * copied) * np.ones(n)
                    change = 0.05 * strength * copied * (1 + QUANTITIES[quantity])
                change = change + rng.normal(0, 0.01 * (1 + QUANTITIES.get(quantity, 0.0)), n)
                frames.append(
                    pl.DataFrame(
                        {
                            "set": [world.name(*heads)] * n,
                            "role": [role] * n,
                            "control_of": pl.Series([of] * n, dtype=pl.String),
                            "method": [method] * n,
                            "quantity": [quantity] * n,
                            "layer": pl.Series([None if neuron is None else world.n_layers - 1] * n, dtype=pl.Int32),
                            "neuron": pl.Series([neuron] * n, dtype=pl.Int32),
                            "copy": copied.astype(int),
                            "offset": position % world.length,
                            "n_sequences": np.full(n, world.n_sequences),
                            "clean": clean,
                            "change": change,
                            "change_low": change - 0.02 * (1 + QUANTITIES.get(quantity, 0.0)),
                            "change_high": change + 0.02 * (1 + QUANTITIES.get(quantity, 0.0)),
                        }
                    )
                )
    return check_frame(pl.concat(frames), "head_ablation")


def fake_head_neurons(world: World) -> pl.DataFrame:
    """Table `head_neurons`: every head with every tracked neuron."""
    rng = np.random.default_rng(world.seed + 2)
    neurons = [*world.entropy, *world.others]
    frames = []
    for method in world.methods:
        for layer, head in world.heads:
            n = len(neurons)
            reacts = np.array([neuron in world.entropy for neuron in neurons]) * ((layer, head) in world.induction)
            change = rng.normal(0, 0.01, n) - 0.3 * reacts
            frames.append(
                pl.DataFrame(
                    {
                        "layer": np.full(n, layer),
                        "head": np.full(n, head),
                        "method": [method] * n,
                        "neuron_layer": np.full(n, world.n_layers - 1),
                        "neuron": neurons,
                        "norm": np.linspace(1.5, 3.0, n),
                        "n_sequences": np.full(n, world.n_sequences),
                        "change": change,
                        "change_low": change - 0.015,
                        "change_high": change + 0.015,
                    }
                )
            )
    return check_frame(pl.concat(frames), "head_neurons")


def fake_selection(world: World) -> pl.DataFrame:
    """Table `selection`: the tracked neurons as sets `entropy` and `token_frequency`."""
    rows = [
        {"set": name, "kind": "selection", "rule": "rule", "layer": world.n_layers - 1, "neuron": neuron, "rank": rank}
        for name, members in (("entropy", world.entropy), ("token_frequency", world.others))
        for rank, neuron in enumerate(members)
    ]
    return pl.DataFrame(rows, schema={name: spec.dtype for name, spec in SCHEMAS["selection"].items()})
