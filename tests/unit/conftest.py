"""Fixtures of the unit tests: threads held to one, no network, tiny models made once per session.

Tests of tables and figures load neither torch nor transformers: whatever needs them is imported within its fixture.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from jaxtyping import install_import_hook

if TYPE_CHECKING:
    from neuronlab.models import Model

# Types and shapes in these modules' signatures are checked in the tests, and cost nothing in a run. Left out are those
# that name Polars' types, which beartype refuses, and those that refuse wrong shapes with messages of their own.
CHECKED = ("null_space", "streaming")
install_import_hook([f"neuronlab.{name}" for name in CHECKED], "beartype.beartype")

# One thread each: sums of floats depend on the number of threads, and oversubscribed threads are slow.
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
# Where triton is installed, its kernels run on the CPU, by the interpreter; TRITON_INTERPRET=0 tests them on a GPU.
# Triton reads this when it is imported, which other libraries do, too.
os.environ.setdefault("TRITON_INTERPRET", "1")

SHARED = Path(os.environ.get("NEURONLAB_SHARED", Path(__file__).parents[2].parent / "shared"))
ARCHITECTURES = ("gpt2", "gpt_neox", "llama", "mistral", "phi", "qwen2", "gemma2")


@pytest.fixture(scope="session", autouse=True)
def charts_are_quick() -> Iterator[None]:
    """Where there are figures among the tests, their charts are made and drawn in less time."""
    if "altair" not in sys.modules:
        yield
        return
    from quick_charts import quick_charts

    with quick_charts():
        yield


@pytest.fixture(scope="session", autouse=True)
def models_are_loaded_once() -> Iterator[None]:
    """Where there are models among the tests."""
    if "neuronlab.models" not in sys.modules:
        yield
        return
    from quick_models import quick_models

    with quick_models():
        yield


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of published models, texts and counts beside the repository; tests that need it skip without it."""
    if not SHARED.is_dir():
        pytest.skip(f"no {SHARED}; set NEURONLAB_SHARED")
    return SHARED


@pytest.fixture(scope="session")
def tiny_directories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny random Hugging Face directory of every architecture."""
    import tiny_models

    root = tmp_path_factory.mktemp("tiny")
    return {name: tiny_models.make_directory(root / name, name) for name in ARCHITECTURES}


@pytest.fixture(params=ARCHITECTURES)
def architecture(request: pytest.FixtureRequest) -> str:
    """Runs the test once for every architecture."""
    return request.param


@pytest.fixture(scope="session")
def tiny_model(tiny_directories: dict[str, Path]) -> Callable[..., Model]:
    """`tiny_model(architecture, dtype="float32")` gives a loaded model, made once per session."""
    import torch
    from neuronlab.models import ModelSpec, load_model

    torch.set_num_threads(1)
    loaded: dict[tuple[str, str], Model] = {}

    def load(name: str, dtype: str = "float32") -> Model:
        if (name, dtype) not in loaded:
            spec = ModelSpec(name, "directory", path=str(tiny_directories[name]), dtype=dtype, device="cpu")
            loaded[name, dtype] = load_model(spec)
        return loaded[name, dtype]

    return load
