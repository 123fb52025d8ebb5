"""Rule `survey_model`: one model or training checkpoint on a sample of a text, small enough to be run on many.

One job does what the study's rules do one by one for the model under study: it tokenises a sample, measures the last
layer's weights, replaces every last-layer neuron's activation by its mean in closed form, and looks for an induction
head. The numbers are those of `measure_neurons`, `measure_frequency_cosine`, `ablate_neurons` and `summarize_effects`
on the same tokens, by the same functions. What is made of them is in `survey_summary`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from neuronlab.ablation import LastLayer
from neuronlab.ablation_shards import DocumentSums, iterate_effects
from neuronlab.documents import TextSpec
from neuronlab.final_states import Setup, Text, last_layer
from neuronlab.frequencies import counts_table
from neuronlab.frequency_cosine import FrequencyAxis
from neuronlab.induction_heads import draw_random, measure_heads
from neuronlab.model_files import ModelSpec
from neuronlab.models import Model, load_model
from neuronlab.null_space import Spectrum, null_space_shares, share_survival
from neuronlab.null_space import spectrum as singular_directions
from neuronlab.replacements import ActivationStatistics, ReplacementError, parse_replacement
from neuronlab.statistics import mediated_fraction
from neuronlab.streaming import Moments
from neuronlab.survey_summary import Sums, summary_frame
from neuronlab.tables import Provenance, write_table
from neuronlab.texts import tokens_table
from neuronlab.vocabulary import load_vocabulary
from neuronlab.weights import configured_sizes, norms, profile_moments, unembed_gain, unit_columns

Array = np.ndarray
VARIANTS = ("total", "direct", "unigram")
SUMMED = ("loss_total", "loss_direct", "loss_unigram", "entropy_total", "entropy_direct", "kl_total")
MOMENTS = ("mean", "min", "max", "constant", "deviations")  # replacements that ask for moments only
RANDOM_DIRECTIONS = 10_000


def survey_model(
    *,
    model: ModelSpec,
    text: TextSpec,
    documents: str | Path,
    count_source: str | Path | Sequence[str | Path] | None,
    neurons: str | Path,
    summary: str | Path,
    spectrum: str | Path,
    sequences: int = 32,
    null_space_k: Sequence[float] = (0.01,),
    include_padded: bool = False,
    replacement: str = "mean",
    heads_length: int | None = None,
    heads_sequences: int = 256,
    kernel: str = "auto",
    batch_size: int = 16,
    tokens_per_chunk: int = 128,
    neurons_per_tile: int = 4096,
    resamples: int = 1000,
    level: float = 0.95,
    te_floor: float = 1e-6,
    seed: int = 0,
    provenance: Provenance | None = None,
) -> None:
    """Write the tables "survey_neurons", "survey_summary" and "survey_spectrum".

    Args:
        documents: file of the text's documents.
        count_source: published or shipped token counts; nothing, to count the documents.
        neurons, summary, spectrum: where to write.
        sequences: how many sequences of the text are drawn; the same ones for all models with one tokenizer.
        null_space_k: configured sizes of the null space; rho is taken at the first one.
        include_padded: let padded ids take part in LogitVar (`text.include_padded`: in the log-unigram direction).
        replacement: entry of `ablation.replacements` that asks for no more than mean, spread and range.
        heads_length, heads_sequences: of the random repeated tokens that heads are scored on.

    Raises:
        ReplacementError, TextError, CountsError, ModelError: replacement, text, counts or model unusable.
        NullSpaceError, AttentionError: a null space or repeated tokens too large for the model.
    """
    wanted = parse_replacement(replacement)
    if wanted.kind not in MOMENTS:
        raise ReplacementError(f"a survey does not replace activations by '{replacement}': use mean, zero, min or max")
    vocabulary = load_vocabulary(model)
    sample = replace(text, sequences=sequences)
    tokens = Text.of_frame(tokens_table(documents, vocabulary, model, sample, seed), text.where)
    if isinstance(count_source, Sequence) and not isinstance(count_source, str):
        count_source = next(iter(count_source), None)
    counts = counts_table(documents, count_source, vocabulary, text)

    loaded = load_model(model)
    k = configured_sizes(null_space_k, loaded.d_model, f"weights.null_space_k ({model.where})")[0]
    repetitions = draw_random(loaded, heads_length, heads_sequences, seed)
    last = last_layer(loaded, counts, include_padded=text.include_padded, kernel=kernel)
    directions = singular_directions(loaded.readout())
    setup = Setup(loaded, last, tokens, activation_statistics(loaded, tokens, batch_size), [wanted], None)
    sums = ablate(setup, batch_size, tokens_per_chunk, neurons_per_tile)
    frame = pl.DataFrame(
        {
            "layer": np.full(last.neurons, last.layer),
            "neuron": np.arange(last.neurons),
            **weight_columns(loaded, directions, k, include_padded, neurons_per_tile),
            "frequency_cosine": cosines(last, last.w, text.include_padded),
            **effect_columns(sums, te_floor),
        }
    ).with_columns(pl.exclude("layer", "neuron").fill_nan(None))
    scores = measure_heads(loaded, repetitions, batch_size).values[0]
    outcome = summary_frame(
        frame,
        sums,
        values=directions.values[: directions.free],
        heads=scores.reshape(len(scores), -1),
        random_cosines=cosines(last, random_directions(last, seed), text.include_padded),
        resamples=resamples,
        level=level,
        te_floor=te_floor,
        seed=seed,
    )
    made_by = {**(provenance or {}), "kernel": last.kernel}
    write_table(frame, neurons, "survey_neurons", made_by)
    write_table(outcome, summary, "survey_summary", made_by)
    singular = pl.DataFrame({"index": np.arange(directions.d), "singular_value": directions.values})
    write_table(singular, spectrum, "survey_spectrum", made_by)


def weight_columns(
    model: Model, directions: Spectrum, k: int, include_padded: bool, neurons_per_tile: int
) -> dict[str, Float[Array, " neurons"]]:
    """Measures of the last layer's weights, as `measure_neurons` takes them, with rho at size k."""
    w = model.w_out(model.n_layers - 1)
    columns = unit_columns(model.readout(), include_padded)
    rho = null_space_shares(w, directions, [k])[0]
    return {
        "norm": norms(w),
        "logit_var": profile_moments(w, columns, neurons_per_tile).logit_var,
        "rho": rho,
        "rho_p_value": share_survival(rho, k, directions),
        "unembed_gain": unembed_gain(w, directions.gram),
    }


def cosines(last: LastLayer, w: Float[Tensor, "directions d"], include_padded: bool) -> Float[Array, " directions"]:
    """Cosine of w W_U with the log-unigram direction, as `measure_frequency_cosine` takes it."""
    assert last.reference is not None
    readout = last.readout
    taking_part = np.ones(readout.vocab, dtype=bool) if include_padded else readout.real.cpu().numpy()
    return FrequencyAxis.of(readout.W, last.reference.direction.cpu().numpy(), taking_part).cosines(w)


def random_directions(last: LastLayer, seed: int) -> Float[Tensor, "directions d"]:
    """Directions drawn uniformly among those that output weights can have: what the neurons are compared with."""
    drawn = np.random.default_rng([seed, 0x7264]).normal(size=(RANDOM_DIRECTIONS, last.readout.d))
    return last.readout.centre(torch.from_numpy(drawn).to(last.device))


def activation_statistics(model: Model, text: Text, batch_size: int) -> ActivationStatistics:
    """Mean, spread and range of the last layer's activations over the counted positions; the rest is missing."""
    layer, moments = model.n_layers - 1, Moments(model.d_mlp)
    starts = range(0, len(text.tokens), batch_size)
    for start in tqdm(starts, desc="moments", unit="batch", file=sys.stderr, disable=None):
        part = slice(start, start + batch_size)
        values = model.activations(torch.from_numpy(text.tokens[part]).long(), [layer])[layer]
        moments.update(values.float().cpu().numpy()[text.counted[part]])
    unknown = np.full(model.d_mlp, np.nan)
    return ActivationStatistics(
        mean=moments.mean,
        sd=moments.sd,
        median=unknown,
        mode=unknown,
        min=moments.min,
        max=moments.max,
        position_means=unknown[:, None],
    )


def ablate(setup: Setup, batch_size: int, tokens_per_chunk: int, neurons_per_tile: int) -> Sums:
    """Effects of all last-layer neurons and clean outcomes, summed over the counted tokens of each document."""
    text, last = setup.text, setup.last
    documents = np.unique(text.documents[text.counted])
    effects = DocumentSums(documents, last.neurons, SUMMED)
    outcomes = np.zeros((4, len(documents)))
    for batch, part, tile, _, clean, _, found in iterate_effects(
        setup,
        range(len(text.tokens)),
        batch_size=batch_size,
        tokens_per_chunk=tokens_per_chunk,
        neurons_per_tile=neurons_per_tile,
        variants=VARIANTS,
        ranked=(),
    ):
        owners = text.documents[batch.sequence[part], batch.position[part]]
        changes = {"loss": found.loss, "entropy": found.entropy, "kl": found.kl}
        columns = (name.split("_") for name in SUMMED)
        effects.add(owners, tile, {f"{o}_{v}": np.abs(changes[o][VARIANTS.index(v)]) for o, v in columns})
        if tile.start == 0:
            hit = clean.prediction == clean.targets
            rows = torch.stack([torch.ones_like(clean.loss), clean.loss, clean.entropy, hit.double()]).cpu().numpy()
            np.add.at(outcomes.T, np.searchsorted(documents, owners), rows.T)
    counts, loss, entropy, accuracy = outcomes
    return Sums(counts, {"loss": loss, "entropy": entropy, "accuracy": accuracy}, effects.sums)


def effect_columns(sums: Sums, te_floor: float) -> dict[str, Float[Array, " neurons"]]:
    """Mean absolute effects and their ratios, as `summarize_effects` takes them (METHODS A2, A3)."""
    mean = {name: values.sum(0) / sums.counts.sum() for name, values in sums.effects.items()}
    return {
        "te_loss": mean["loss_total"],
        "te_entropy": mean["entropy_total"],
        "te_kl": mean["kl_total"],
        "m_loss": mediated_fraction(mean["loss_total"], mean["loss_direct"], te_floor),
        "m_entropy": mediated_fraction(mean["entropy_total"], mean["entropy_direct"], te_floor),
        "m_freq_loss": mediated_fraction(mean["loss_total"], mean["loss_unigram"], te_floor),
    }
