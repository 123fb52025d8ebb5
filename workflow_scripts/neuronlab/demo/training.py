"""Trains the demo model: fixed steps, seeds and thread count, fresh data at every step, ordinary initialisation.

The same seed, number of steps and number of threads on the same machine give the same bytes. Checkpoints are
directories that transformers can load; each appears whole or not at all.
``python -m neuronlab.demo.training --seed 0 --output DIR`` runs it by hand.
"""

import argparse
import json
import os
import shutil
import time
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from tqdm import tqdm
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from neuronlab.demo import tokenizer
from neuronlab.demo.language import Sampler

STEPS, WARM_UP, FLAT_UNTIL, FINAL_SHARE = 7_000, 100, 0.6, 0.02
BATCH, SEQUENCE = 32, 128
LEARNING_RATE, WEIGHT_DECAY, BETAS = 2e-3, 0.1, (0.9, 0.98)
CHECKPOINT_STEPS = (64, 128, 256, 512, 1024, 2048, 4096, 5632)  # doubling, and one while the learning rate falls
COUNTS_FILE = "token_counts.npy"


def model_config() -> GPTNeoXConfig:
    """Two layers, attention before MLP, rotary positions, untied unembedding without bias."""
    return GPTNeoXConfig(
        vocab_size=tokenizer.build_tokenizer().get_vocab_size(),
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=1024,
        hidden_act="gelu",
        use_parallel_residual=False,
        rotary_pct=1.0,
        max_position_embeddings=SEQUENCE,
        initializer_range=0.05,  # normal; with 0.02 induction heads appear more than twice as late
        tie_word_embeddings=False,
        bos_token_id=tokenizer.BOS_ID,
        eos_token_id=tokenizer.BOS_ID,
    )


def learning_rate(step: int, steps: int) -> float:
    """Warm-up, then constant, then linear down to a fiftieth."""
    if step < WARM_UP:
        return LEARNING_RATE * (step + 1) / WARM_UP
    decayed = max(0.0, step / steps - FLAT_UNTIL) / (1 - FLAT_UNTIL)
    return LEARNING_RATE * (1 - (1 - FINAL_SHARE) * decayed)


def training_batch(sampler: Sampler, seed: int, step: int) -> Int[np.ndarray, "batch position"]:
    """Documents cut to the model's window, ``<|bos|>`` first; any step's batch can be made again by itself."""
    rows = (sampler.document("training", seed, step * BATCH + row, SEQUENCE - 1) for row in range(BATCH))
    return np.array([tokenizer.document_tokens(document)[:SEQUENCE] for document in rows])


def train(
    seed: int,
    output_directory: str | Path,
    steps: int = STEPS,
    threads: int = 1,
    checkpoint_steps: tuple[int, ...] = CHECKPOINT_STEPS,
) -> None:
    """Writes ``final/``, ``step_NNNNNN/`` for the checkpoints, the training tokens' counts and ``training_log.json``.

    The learning rate depends on ``steps``: a run with fewer steps is another run, not the beginning of a longer one.
    """
    output = Path(output_directory)
    output.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    model = GPTNeoXForCausalLM(model_config())
    # The plain attention is a quarter faster than the fused kernel at this size on one thread.
    model.set_attn_implementation("eager")
    optimizer = _optimizer(model)
    sampler = tokenizer.build_sampler()
    counts = np.zeros(model.config.vocab_size, dtype=np.int64)
    log, started = [], time.monotonic()
    for step in tqdm(range(steps), desc=f"train demo, seed {seed}", mininterval=10):
        batch = training_batch(sampler, seed, step)
        counts += np.bincount(batch[:, 1:].ravel(), minlength=len(counts))
        loss = _update(model, optimizer, torch.from_numpy(batch), learning_rate(step, steps))
        if (step + 1) % 100 == 0:
            log.append({"step": step + 1, "loss": round(loss, 4)})
        if step + 1 in checkpoint_steps and step + 1 < steps:
            save_checkpoint(model, output / f"step_{step + 1:06d}", torch.float16)
        if (step + 1) % 1000 == 0:
            tqdm.write(f"step {step + 1} loss {loss:.3f} after {time.monotonic() - started:.0f} s")
    _write_atomically(output / COUNTS_FILE, counts)
    record = {"seed": seed, "steps": steps, "threads": threads, "tokens": steps * BATCH * SEQUENCE, "loss": log}
    (output / "training_log.json").write_text(json.dumps(record) + "\n")
    save_checkpoint(model, output / "final", torch.float32)


def _optimizer(model: GPTNeoXForCausalLM) -> torch.optim.AdamW:
    """Weight decay on matrices, the embeddings included; none on gains and biases."""
    matrices = [p for p in model.parameters() if p.ndim == 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=BETAS, fused=True)


def _update(
    model: GPTNeoXForCausalLM,
    optimizer: torch.optim.AdamW,
    batch: Int[torch.Tensor, "batch position"],
    rate: float,
) -> float:
    """One step of AdamW on the next-token loss; returns the loss in nats."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(batch[:, :-1], use_cache=False).logits
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), batch[:, 1:].flatten())
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.item()


def save_checkpoint(model: GPTNeoXForCausalLM, directory: Path, dtype: torch.dtype) -> None:
    """A directory for ``from_pretrained``: written beside its place and renamed, so that it is never half there."""
    partial = directory.with_name(f".{directory.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    copy = GPTNeoXForCausalLM(model.config)
    copy.load_state_dict(model.state_dict())
    copy.to(dtype).save_pretrained(partial)
    tokenizer.hugging_face_tokenizer().save_pretrained(partial)
    shutil.rmtree(directory, ignore_errors=True)
    os.replace(partial, directory)


def _write_atomically(path: Path, counts: Int[np.ndarray, "vocabulary"]) -> None:
    partial = path.with_name(f".{path.name}")
    np.save(partial.with_suffix(".npy"), counts)
    os.replace(partial.with_suffix(".npy"), path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    train(arguments.seed, arguments.output, arguments.steps, arguments.threads)
