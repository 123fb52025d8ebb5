"""Compiled loops kept between processes: the same bits as freshly compiled ones, and anew when their code changes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from neuronlab.kernels.compiled import directory

ROOT = Path(__file__).parents[2]
# Every way through the loops, on numbers drawn once; prints a digest of all results and where the loops came from.
PROGRAM = """
import hashlib
import numpy as np
from neuronlab.kernels import numba_kernel, rank_kernel

rng = np.random.default_rng(0)
draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
tokens, neurons, vocab = 5, 7, 2500
z, U, g, lp = draw(tokens, vocab), draw(neurons, vocab), draw(vocab) / 10, draw(tokens, vocab)
lp -= np.log2(np.exp2(lp).sum(1, keepdims=True))
p, digest = np.exp2(lp), hashlib.sha256()
for way, scale in ((1, 0.02), (2, 1), (3, 30)):
    for frozen in (0, 1):
        A, B, C = (draw(2, tokens, neurons) * np.float32(scale) for _ in range(3))
        A[1], C = 0, C * np.float32(frozen)
        shift, s, h = np.zeros((3, *A.shape))
        numba_kernel._tile(z, U, g, p, lp, A, B, C, np.full(A.shape, way, np.int8), 0, neurons, shift, s, h)
        bound = np.full(A.shape, 3 * scale, np.float32)
        ranks = rank_kernel.ranks(z, U, g, lp, A, B, C, np.zeros(tokens, np.int64), bound, 1)
        for found in (s, h, shift, *ranks):
            digest.update(np.ascontiguousarray(found).tobytes())
loops = (numba_kernel._tile, rank_kernel._tile)
loaded = sum(sum(loop.stats.cache_hits.values()) for loop in loops)
print(digest.hexdigest(), *(len(loop.signatures) for loop in loops), loaded)
"""


def run(cache: Path) -> list[str]:
    environment = os.environ | {"NUMBA_CACHE_DIR": str(cache), "PYTHONPATH": str(ROOT / "workflow_scripts")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.slow
def test_a_kept_loop_gives_the_bits_of_a_fresh_one(tmp_path: Path) -> None:
    fresh, kept = run(tmp_path), run(tmp_path)
    assert fresh[1:] == ["1", "1", "0"]  # one variant of each loop, compiled
    assert kept[1:] == ["1", "1", "2"]  # the same, loaded
    assert kept[0] == fresh[0]
    assert len(list(tmp_path.rglob("*.nbc"))) == 2


def test_changed_code_has_a_folder_of_its_own(tmp_path: Path) -> None:
    sources = tmp_path / "kernels"
    sources.mkdir()
    loop, called = sources / "loop.py", sources / "called.py"
    loop.write_text("from called import one\n")
    called.write_text("one = 1\n")
    first = directory(sources=sources)
    assert first is not None
    assert first.parent == sources / "__pycache__"
    assert directory(sources=sources) == first
    called.write_text("one = 2\n")
    assert directory(sources=sources) != first
    called.write_text("one = 1\n")
    assert directory(sources=sources) == first
    elsewhere = directory(str(tmp_path / "cache"), sources)
    assert elsewhere == tmp_path / "cache" / first.name


def test_where_nothing_can_be_kept_loops_are_compiled_each_time(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    assert directory(str(tmp_path / "file")) is None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "access", lambda *_: False)
        assert directory(str(tmp_path / "readable")) is None
