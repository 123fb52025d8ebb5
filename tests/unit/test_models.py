"""Loaded models against plain Hugging Face and against TransformerLens' own folding, on seven architectures."""

from __future__ import annotations

from dataclasses import replace

import pytest
import tiny_models
import torch
from neuronlab.models import HookError, ModelError, ModelSpec, load_model
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoModelForCausalLM

# Token 1 is EOS: documents are joined with it, so it must not be taken for padding.
TOKENS = torch.randint(0, 196, (3, 40), generator=torch.Generator().manual_seed(1))
LAST = 1
MLP_OUT = {  # the module of plain Hugging Face that holds W_out
    "gpt2": "transformer.h.{}.mlp.c_proj",
    "gpt_neox": "gpt_neox.layers.{}.mlp.dense_4h_to_h",
    "phi": "model.layers.{}.mlp.fc2",
} | dict.fromkeys(("llama", "mistral", "qwen2", "gemma2"), "model.layers.{}.mlp.down_proj")
LAYER_NORM = ("gpt2", "gpt_neox", "phi")


@pytest.fixture
def plain(tiny_directories, architecture):
    """The same weights in plain Hugging Face."""
    return AutoModelForCausalLM.from_pretrained(tiny_directories[architecture], attn_implementation="eager").eval()


@torch.no_grad()
def test_logits_equal_hugging_face(tiny_model, plain, architecture):
    assert torch.allclose(tiny_model(architecture).logits(TOKENS), plain(TOKENS).logits, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_run_gives_what_the_modules_see(tiny_model, plain, architecture):
    """Activations are the input of W_out; the residual is the input of the final norm."""
    seen = {}
    out = plain.get_submodule(MLP_OUT[architecture].format(LAST))
    out.register_forward_pre_hook(lambda _, inputs: seen.update(activations=inputs[0]))
    final = {"gpt2": "transformer.ln_f", "gpt_neox": "gpt_neox.final_layer_norm", "phi": "model.final_layernorm"}
    norm = plain.get_submodule(final.get(architecture, "model.norm"))
    norm.register_forward_pre_hook(lambda _, inputs: seen.update(residual=inputs[0]))
    plain(TOKENS)
    state = tiny_model(architecture).run(TOKENS)
    assert torch.allclose(state.activations, seen["activations"], atol=1e-5)
    assert torch.allclose(state.residual, seen["residual"], atol=1e-4, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("layer", [0, LAST])
def test_replacement_equals_a_module_hook(tiny_model, plain, architecture, layer):
    """Replacing activations changes logits exactly as an edit of W_out's input in plain Hugging Face does."""
    neurons, generator = [3, 17, 40], torch.Generator().manual_seed(2)
    values = torch.randn(*TOKENS.shape, len(neurons), generator=generator)

    def edit(module, inputs):
        changed = inputs[0].clone()
        changed[..., neurons] = values
        return (changed, *inputs[1:])

    clean = plain(TOKENS).logits
    plain.get_submodule(MLP_OUT[architecture].format(layer)).register_forward_pre_hook(edit)
    expected = plain(TOKENS).logits
    got = tiny_model(architecture).logits(TOKENS, replace=(layer, neurons, values))
    assert (expected - clean).abs().max() > 0.1  # the edit matters, so agreement means something
    assert torch.allclose(got, expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_replacement_of_one_neuron_takes_a_number_or_a_value_per_token(tiny_model, architecture):
    model = tiny_model(architecture)
    by_number = model.logits(TOKENS, replace=(LAST, 5, 1.5))
    by_tensor = model.logits(TOKENS, replace=(LAST, 5, torch.full(TOKENS.shape, 1.5)))
    assert torch.equal(by_number, by_tensor)
    own = model.run(TOKENS).activations[..., 5]
    assert torch.equal(model.logits(TOKENS, replace=(LAST, 5, own)), model.logits(TOKENS))


@torch.no_grad()
def test_activations_of_several_layers_from_one_pass(tiny_model, architecture):
    model = tiny_model(architecture)
    both = model.activations(TOKENS, [0, LAST])
    assert torch.equal(both[LAST], model.run(TOKENS).activations)
    assert both[0].shape == both[LAST].shape == (3, 40, model.d_mlp)
    assert not torch.allclose(both[0], both[LAST], atol=0.1)


@torch.no_grad()
def test_results_do_not_depend_on_the_batch(tiny_model, architecture):
    model = tiny_model(architecture, "float64")
    together = model.run(TOKENS)
    for row in range(len(TOKENS)):
        alone = model.run(TOKENS[row : row + 1])
        # 1e-6: attention's softmax stays in float32 in Hugging Face, whatever the dtype.
        assert torch.allclose(together.residual[row], alone.residual[0], atol=1e-6)
        assert torch.allclose(together.activations[row], alone.activations[0], atol=1e-6)


@torch.no_grad()
def test_a_later_token_changes_nothing_before_it(tiny_model, architecture):
    """Causal, with EOS within the sequence and as its last token."""
    model, changed = tiny_model(architecture), TOKENS.clone()
    changed[:, -1] = 1
    assert torch.allclose(model.logits(changed)[:, :-1], model.logits(TOKENS)[:, :-1], atol=1e-5)


@torch.no_grad()
def test_final_state_and_weights_make_the_residual(tiny_model, architecture):
    """One neuron's activation raised by 1 moves the residual by raw_w_out, through the post norm where there is one."""
    model = tiny_model(architecture, "float64")
    state, neuron = model.run(TOKENS), 7
    moved = {}
    raised = state.activations[..., neuron] + 1
    hooks = {
        f"blocks.{LAST}.mlp.out.hook_in": lambda x, hook: _put(x, neuron, raised),
        "ln_final.hook_in": lambda x, hook: moved.update(residual=x.clone()),
    }
    model._forward(TOKENS, hooks)
    raw = model.raw_w_out(LAST)[neuron]
    if model.has_post_mlp_norm:
        readout = model.readout(torch.float64)
        before = state.mlp_out / readout.post_scale(state.mlp_out)
        after = (state.mlp_out + raw) / readout.post_scale(state.mlp_out + raw)
        expected = state.residual + (after - before) * readout.post_gain
        assert torch.allclose(model.w_out(LAST)[neuron], raw * readout.post_gain)
    else:
        assert state.mlp_out is None
        expected = state.residual + raw
    assert torch.allclose(moved["residual"], expected, atol=1e-12)


def _put(x, neuron, values):
    x = x.clone()
    x[..., neuron] = values
    return x


@torch.no_grad()
def test_folding_keeps_log_probabilities(tiny_model, architecture):
    model = tiny_model(architecture)
    theirs = model.logits(TOKENS)
    ours = model.readout().logits(model.run(TOKENS).residual)
    assert torch.allclose(ours.log_softmax(-1), theirs.log_softmax(-1), atol=2e-5)
    if architecture == "gemma2":  # under a softcap nothing may be shifted: the logits themselves agree
        assert not model.readout().vocabulary_centred
        assert torch.allclose(ours, theirs, atol=2e-5)


@torch.no_grad()
def test_float64_model_is_float64_throughout(tiny_model, architecture):
    """Hugging Face's RMS norm computes in float32 whatever the dtype; ours of a float64 model must not."""
    model = tiny_model(architecture, "float64")
    state = model.run(TOKENS)
    assert state.residual.dtype == state.activations.dtype == torch.float64
    ours = model.readout(torch.float64).logits(state.residual).log_softmax(-1)
    assert torch.allclose(ours, model.logits(TOKENS).log_softmax(-1), atol=1e-12, rtol=0)


@torch.no_grad()
def test_norm_before_the_mlp_is_folded_into_w_in(tiny_model, architecture):
    """Pre-activations from the normalised residual: w_in times (x_c / sigma), plus a bias that does not depend on x."""
    model = tiny_model(architecture, "float64")
    block = model.bridge.blocks[LAST]
    norm = "ln2" if hasattr(block, "ln2") else "ln1"
    seen = {}
    names = {f"blocks.{LAST}.{norm}.hook_in": "x", f"blocks.{LAST}.mlp.in.hook_out": "pre"}
    model._forward(
        TOKENS, {name: lambda t, hook, key=key: seen.update({key: t.clone()}) for name, key in names.items()}
    )
    x, pre = seen["x"], seen["pre"]
    if architecture in LAYER_NORM:
        x = x - x.mean(-1, keepdim=True)
    normalised = x / (x.square().mean(-1, keepdim=True) + 1e-3).sqrt()
    difference = pre - normalised @ model.w_in(LAST).T
    assert torch.allclose(difference, difference[0, 0].expand_as(difference), atol=1e-12)
    if architecture in LAYER_NORM:
        assert model.w_in(LAST).mean(-1).abs().max() < 1e-12


@torch.no_grad()
def test_agrees_with_transformer_lens_folding(tiny_model, tiny_directories, architecture):
    """The oracle is TransformerLens' compatibility mode: W_U and W_out after folding and centring."""
    model = tiny_model(architecture)
    oracle = TransformerBridge.boot_transformers(str(tiny_directories[architecture]), device="cpu")
    oracle.enable_compatibility_mode()
    ours, theirs = model.readout(), oracle.W_U.detach().float()
    assert torch.allclose(model.logits(TOKENS).log_softmax(-1), oracle(TOKENS).log_softmax(-1), atol=2e-5)
    centred = theirs - theirs.mean(1, keepdim=True)
    if architecture in LAYER_NORM:  # the all-ones direction: free in theirs, removed in ours, seen by no residual
        centred = centred - centred.mean(0, keepdim=True)
    W = ours.W if ours.vocabulary_centred else ours.W - ours.W.mean(1, keepdim=True)
    assert torch.allclose(W, centred, atol=1e-5)
    for layer in (0, LAST):
        their_out = oracle.W_out[layer].detach()
        mine = model.raw_w_out(layer) if architecture == "gemma2" else model.w_out(layer)  # post norms stay unfolded
        assert torch.allclose(mine, their_out, atol=1e-5)


def test_facts_about_the_architectures(tiny_model, architecture):
    model = tiny_model(architecture)
    assert (model.n_layers, model.d_model, model.d_mlp, model.d_vocab, model.n_ctx) == (2, 32, 48, 200, 64)
    assert model.eps == pytest.approx(1e-3)
    assert model.norm_kind == ("LN" if architecture in LAYER_NORM else "RMS")
    assert model.softcap == (8.0 if architecture == "gemma2" else None)
    assert model.has_post_mlp_norm == (architecture == "gemma2")
    assert (model.bos_token_id, model.eos_token_id) == (None if architecture == "qwen2" else 0, 1)
    pieces = model.tokenizer.convert_ids_to_tokens(list(model.newline_token_ids))
    assert sorted(pieces) == ["Ċ", "ĊĊ"]
    assert model.d_vocab_real == len(model.tokenizer) < model.d_vocab
    assert model.readout().real.sum() == model.d_vocab_real


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_low_precision_runs_and_returns_float32(tiny_model, architecture, dtype):
    model = tiny_model(architecture, dtype)
    state = model.run(TOKENS)
    assert state.residual.dtype == state.activations.dtype == model.logits(TOKENS).dtype == torch.float32
    reference = tiny_model(architecture).logits(TOKENS).softmax(-1)
    assert (model.logits(TOKENS).softmax(-1) - reference).abs().max() < 0.1


def test_replacing_is_not_remembered(tiny_model):
    model = tiny_model("gpt2")
    before = model.logits(TOKENS)
    model.logits(TOKENS, replace=(0, 1, 100.0))
    assert torch.equal(model.logits(TOKENS), before)


def test_a_hook_that_does_not_fire_is_an_error(tiny_model):
    """TransformerLens lists hook points that the forward pass never reaches, and says nothing."""
    with pytest.raises(HookError, match=r"must fire once in LlamaForCausalLM: rotary_emb.hook_out \(0 times\)"):
        tiny_model("llama")._forward(TOKENS, {"rotary_emb.hook_out": lambda tensor, hook: None})


@pytest.mark.parametrize("layer", [-1, 2])
def test_layer_out_of_range(tiny_model, layer):
    with pytest.raises(ModelError, match=r"models\.gpt2: no layer -?\d; its layers are 0 to 1"):
        tiny_model("gpt2").w_out(layer)


def test_too_long_a_sequence(tiny_model):
    with pytest.raises(ModelError, match="sequences of 65 tokens, but its context is 64"):
        tiny_model("gpt2").run(torch.zeros(1, 65, dtype=torch.long))


def test_a_model_goes_where_its_job_may_compute(tiny_directories, monkeypatch):
    """`auto` reaches the job as it stands in the configuration, and every model that is loaded asks for its device."""
    asked = []
    monkeypatch.setattr("neuronlab.models.resolve_device", lambda device: asked.append(device) or torch.device("cpu"))
    spec = ModelSpec("mine", "directory", path=str(tiny_directories["gpt2"]), device="auto")
    assert load_model(spec).device == torch.device("cpu")
    assert asked == ["auto"]


def test_revision_of_a_directory_is_a_sub_folder(tiny_directories):
    root = tiny_directories["gpt2"].parent
    spec = ModelSpec("sub", "directory", path=str(root), revision="gpt2", device="cpu")
    direct = load_model(replace(spec, path=str(root / "gpt2"), revision=None))
    assert torch.equal(load_model(spec).logits(TOKENS), direct.logits(TOKENS))


@torch.no_grad()
@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("gpt_neox", {"use_parallel_residual": False}),  # the demo's layout
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}),
        ("llama", {"tie_word_embeddings": True, "mlp_bias": True}),
        ("gemma2", {"final_logit_softcapping": None}),
    ],
)
def test_variants_of_an_architecture(tmp_path, family, options):
    config = tiny_models.CONFIGS[family]()
    config.update(options)
    network = tiny_models.make_model(family, config=config)
    network.save_pretrained(tmp_path)
    tiny_models.make_tokenizer().save_pretrained(tmp_path)
    model = load_model(ModelSpec("variant", "directory", path=str(tmp_path), device="cpu"))
    assert torch.allclose(model.logits(TOKENS), network(TOKENS).logits, atol=1e-5, rtol=1e-5)
    ours = model.readout().logits(model.run(TOKENS).residual).log_softmax(-1)
    assert torch.allclose(ours, model.logits(TOKENS).log_softmax(-1), atol=2e-5)
    assert model.readout().vocabulary_centred  # Gemma-2 without its softcap may be centred


@torch.no_grad()
def test_residual_after_a_replacement(tiny_model, architecture):
    """What the read-out makes of the moved residual are the logits of the full pass with the same replacement."""
    model = tiny_model(architecture, "float64")
    replacement = (LAST, [2, 9], torch.tensor([0.5, -2.0]))
    ours = model.readout(torch.float64).logits(model.residual_after(TOKENS, replacement)).log_softmax(-1)
    theirs = model.logits(TOKENS, replacement).log_softmax(-1)
    assert torch.allclose(ours, theirs, atol=1e-12, rtol=0)


def test_a_real_model(shared):
    """A trained GPT-2 of four layers: sane losses on its own held-out text, by model and by folded read-out."""
    directory = shared / "models" / "shakespeare-gpt2"
    if not directory.is_dir():
        pytest.skip(f"no {directory}")
    model = load_model(ModelSpec("shakespeare", "directory", path=str(directory), device="cpu"))
    text = (shared / "texts" / "shakespeare_heldout.txt").read_text()[:6000]
    tokens = torch.tensor([model.tokenizer.encode(text, add_special_tokens=False)[:255]])
    log_p = model.readout().logits(model.run(tokens).residual).log_softmax(-1)
    loss = -log_p[0, :-1].gather(-1, tokens[0, 1:, None]).mean()
    own = -model.logits(tokens)[0, :-1].log_softmax(-1).gather(-1, tokens[0, 1:, None]).mean()
    assert torch.isclose(loss, own, atol=1e-5)
    assert 3.5 < loss < 5.5  # trained to 4.40 nats on this text; a uniform guess costs 7.6
