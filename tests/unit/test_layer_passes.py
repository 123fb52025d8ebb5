"""Changed passes from clean residuals against whole passes of changed Hugging Face models, in seven architectures."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path

import naive_layers
import numpy as np
import pytest
import torch
from conftest import ARCHITECTURES
from neuronlab import layer_passes
from neuronlab.layer_passes import Intervention, InterventionError, LayerPasses, exchanged_weights, weight_pairs
from neuronlab.models import Model, ModelSpec, load_model
from neuronlab.schemas_stages import INTERVENTIONS

PART_KINDS = [kind for kind in INTERVENTIONS if kind != "swap"]
PAIRS = list(combinations(range(naive_layers.LAYERS), 2))
TOLERANCE = 2e-5  # of float32 log-probabilities
# Longer than the window of 16 that Mistral and, in every other layer, Gemma-2 have.
TOKENS = np.random.default_rng(0).integers(2, 190, (2, 24))
COUNTED = np.random.default_rng(1).random(TOKENS.shape) < 0.6


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny models of four layers."""
    root = tmp_path_factory.mktemp("deeper")
    return {name: naive_layers.make_deeper(root / name, name) for name in ARCHITECTURES}


def loaded(path: Path) -> Model:
    return load_model(ModelSpec("deeper", "directory", path=str(path), device="cpu"))


def passes_of(path: Path) -> LayerPasses:
    passes = LayerPasses(loaded(path))
    passes.means = passes.mean_outputs([(torch.from_numpy(TOKENS), torch.from_numpy(COUNTED))])
    passes.evaluations = 0
    return passes


def ours(passes: LayerPasses, residuals: list[torch.Tensor], *what: object) -> np.ndarray:
    residual = passes.changed(residuals, Intervention(*what))
    return passes.model.readout(torch.float64).logits(residual.double()).log_softmax(-1).numpy()


@contextmanager
def blocks_run(model: Model) -> Iterator[list[int]]:
    """Layers whose attention really computes, in order."""
    seen: list[int] = []
    handles = [
        block.attn.register_forward_hook(lambda *_, layer=layer: seen.append(layer))
        for layer, block in enumerate(model.bridge.blocks)
    ]
    yield seen
    for handle in handles:
        handle.remove()


def test_every_intervention_by_brute_force(architecture: str, directories: dict[str, Path]) -> None:
    """Deleted, averaged and swapped layers: the distribution at every position is that of the changed model."""
    network, passes = naive_layers.load(directories[architecture]), passes_of(directories[architecture])
    means = naive_layers.mean_outputs(network, TOKENS, COUNTED)
    residuals = passes.clean(torch.from_numpy(TOKENS))
    clean = naive_layers.log_probabilities(network, TOKENS)
    cases = [(kind, layer, None) for kind in PART_KINDS for layer in range(naive_layers.LAYERS)]
    for kind, layer, other in [*cases, *(("swap", *pair) for pair in PAIRS)]:
        expected = naive_layers.changed(network, kind, layer, other, TOKENS, means)
        np.testing.assert_allclose(ours(passes, residuals, kind, layer, other), expected, rtol=0, atol=TOLERANCE)
        assert np.abs(expected - clean).max() > 100 * TOLERANCE  # it does something


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox", "llama", "mistral", "phi", "qwen2"])
def test_a_swap_is_two_blocks_in_each_others_place(name: str, directories: dict[str, Path]) -> None:
    """Where nothing depends on a layer's index, the weights are all there is to a block."""
    network, passes = naive_layers.load(directories[name]), passes_of(directories[name])
    residuals = passes.clean(torch.from_numpy(TOKENS))
    for pair in ((0, 1), (1, 3)):
        expected = naive_layers.with_modules_exchanged(network, *pair, TOKENS)
        np.testing.assert_allclose(ours(passes, residuals, "swap", *pair), expected, rtol=0, atol=TOLERANCE)


def test_what_depends_on_the_index_stays_in_its_slot(tmp_path: Path, directories: dict[str, Path]) -> None:
    """Gemma-2's alternating windows and GPT-2's inverse layer scaling do not move with the weights."""
    scaled = naive_layers.make_deeper(tmp_path / "scaled", "gpt2", scale_attn_by_inverse_layer_idx=True)
    for path, pair in ((directories["gemma2"], (0, 1)), (directories["gemma2"], (0, 3)), (scaled, (0, 3))):
        network, passes = naive_layers.load(path), passes_of(path)
        found = ours(passes, passes.clean(torch.from_numpy(TOKENS)), "swap", *pair)
        by_weights = naive_layers.with_weights_exchanged(network, *pair, TOKENS)
        by_modules = naive_layers.with_modules_exchanged(network, *pair, TOKENS)
        np.testing.assert_allclose(found, by_weights, rtol=0, atol=TOLERANCE)
        assert np.abs(found - by_modules).max() > 100 * TOLERANCE
    # Two windowed slots of Gemma-2 are alike: there the blocks may move as a whole.
    network, passes = naive_layers.load(directories["gemma2"]), passes_of(directories["gemma2"])
    found = ours(passes, passes.clean(torch.from_numpy(TOKENS)), "swap", 0, 2)
    expected = naive_layers.with_modules_exchanged(network, 0, 2, TOKENS)
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)


def test_sequential_gpt_neox(tmp_path: Path) -> None:
    """GPT-NeoX without parallel residuals: the MLP reads what the attention wrote."""
    path = naive_layers.make_deeper(tmp_path / "sequential", "gpt_neox", use_parallel_residual=False)
    network, passes = naive_layers.load(path), passes_of(path)
    means = naive_layers.mean_outputs(network, TOKENS, COUNTED)
    residuals = passes.clean(torch.from_numpy(TOKENS))
    for kind in PART_KINDS:
        expected = naive_layers.changed(network, kind, 1, None, TOKENS, means)
        np.testing.assert_allclose(ours(passes, residuals, kind, 1), expected, rtol=0, atol=TOLERANCE)


def test_means_are_over_counted_positions_of_all_batches(directories: dict[str, Path]) -> None:
    """In batches of one sequence, with other numbers of counted positions in each."""
    passes = LayerPasses(loaded(directories["gemma2"]))
    halves = [(torch.from_numpy(TOKENS[[i]]), torch.from_numpy(COUNTED[[i]])) for i in range(len(TOKENS))]
    assert COUNTED[0].sum() != COUNTED[1].sum()
    found = passes.mean_outputs(halves)
    expected = naive_layers.mean_outputs(naive_layers.load(directories["gemma2"]), TOKENS, COUNTED)
    for layer, by_part in enumerate(expected):
        for part, mean in enumerate(by_part.values()):
            torch.testing.assert_close(found[layer, part], mean.double(), rtol=0, atol=1e-5)
    with pytest.raises(InterventionError, match="no position"):
        passes.mean_outputs([(torch.from_numpy(TOKENS), torch.zeros(TOKENS.shape, dtype=torch.bool))])


def test_blocks_below_are_not_evaluated_c_defect_4(directories: dict[str, Path]) -> None:
    """An intervention on layer i starts there; the count of blocks is what really ran."""
    for name in ("gpt2", "gemma2"):
        passes = passes_of(directories[name])
        with blocks_run(passes.model) as seen:
            residuals = passes.clean(torch.from_numpy(TOKENS))
            assert seen == [0, 1, 2, 3]
        last, total = naive_layers.LAYERS, naive_layers.LAYERS
        expected = {("delete", 0, None): [1, 2, 3], ("mean", 2, None): [3], ("delete", 3, None): []}
        expected |= {("mean_mlp", 1, None): [1, 2, 3], ("delete_attention", 3, None): [3]}
        expected |= {("swap", 1, 2): [1, 2, 3], ("swap", 0, 3): [0, 1, 2, 3]}
        for what, blocks in expected.items():
            with blocks_run(passes.model) as seen:
                passes.changed(residuals, Intervention(*what))
            assert seen == blocks == list(range(last - len(blocks), last))
            total += len(blocks)
        assert passes.evaluations == total * len(TOKENS)


def test_weights_are_back_after_a_swap(architecture: str, directories: dict[str, Path]) -> None:
    """Bit by bit, in the same tensors, also when the pass within fails; nothing is copied meanwhile."""
    model = loaded(directories[architecture])
    before = {name: (p, p.data_ptr(), p.detach().clone()) for name, p in model.bridge.named_parameters()}
    passes = LayerPasses(model)
    passes.changed(passes.clean(torch.from_numpy(TOKENS)), Intervention("swap", 0, 3))

    def fail() -> None:
        with exchanged_weights(model, 1, 2):
            pointers = {p.data_ptr() for _, p in model.bridge.named_parameters()}
            assert pointers == {pointer for _, pointer, _ in before.values()}
            raise RuntimeError("within")

    with pytest.raises(RuntimeError, match="within"):
        fail()
    for name, p in model.bridge.named_parameters():
        same, pointer, value = before[name]
        assert p is same
        assert p.data_ptr() == pointer
        assert torch.equal(p, value)


def test_every_weight_of_a_block_moves(architecture: str, directories: dict[str, Path]) -> None:
    """The parameters that change places are those that Hugging Face counts in the block (the bridge has copies)."""
    model = loaded(directories[architecture])
    network = naive_layers.load(directories[architecture])
    with exchanged_weights(model, 0, 2):
        moved = {value.detach().numpy().tobytes() for value in model.bridge.blocks[0].parameters()}
    for name, value in naive_layers.blocks_of(network)[2].named_parameters():
        assert value.detach().numpy().tobytes() in moved, name


def test_blocks_that_are_not_built_alike_are_refused(
    directories: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = loaded(directories["llama"])
    weight = model.bridge.blocks[2].mlp.out.original_component.weight
    monkeypatch.setattr(weight, "data", torch.zeros(weight.shape[0], weight.shape[1] + 1))
    with pytest.raises(InterventionError, match=r"swaps: layers 0 and 2 .*mlp.*not of one shape"):
        weight_pairs(model, 0, 2)


def test_check_accepts_every_architecture(architecture: str, directories: dict[str, Path]) -> None:
    passes = LayerPasses(loaded(directories[architecture]))
    passes.check(torch.from_numpy(TOKENS))
    assert passes.evaluations == 0


def test_check_refuses_what_does_not_add_up(directories: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Gemma-2's MLP before its norm is not what is added to the stream; a hook point that is not there is named."""
    passes = LayerPasses(loaded(directories["gemma2"]))
    right = layer_passes.written
    monkeypatch.setattr(layer_passes, "written", lambda b, i: right(b, i) | {"mlp": f"blocks.{i}.mlp.hook_out"})
    with pytest.raises(InterventionError, match=r"stream after layer 0.*differs from the clean run"):
        passes.check(torch.from_numpy(TOKENS))
    monkeypatch.setattr(layer_passes, "written", lambda b, i: right(b, i) | {"mlp": f"blocks.{i}.nowhere"})
    with pytest.raises(InterventionError, match=r"no hook point blocks\.0\.nowhere"):
        passes.check(torch.from_numpy(TOKENS))


def test_check_refuses_a_pass_that_ends_elsewhere(
    directories: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = LayerPasses(loaded(directories["gpt2"]))
    resume = passes.resume
    monkeypatch.setattr(passes, "resume", lambda residual, first: resume(residual * 1.01, first))
    with pytest.raises(InterventionError, match="a pass that starts at layer 0 differs"):
        passes.check(torch.from_numpy(TOKENS))


def test_means_are_needed(directories: dict[str, Path]) -> None:
    passes = LayerPasses(loaded(directories["gpt2"]))
    residuals = passes.clean(torch.from_numpy(TOKENS))
    for kind in ("mean", "mean_mlp"):
        with pytest.raises(InterventionError, match="mean outputs"):
            passes.changed(residuals, Intervention(kind, 0))
