"""A download by the real library that is killed, and the one that goes on after it; from a hub on this machine."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from local_hub import COMMIT, LocalHub
from neuronlab import fetching
from neuronlab.model_files import check_manifest

FETCH = """
import sys
from neuronlab.fetching import fetch_model
from neuronlab.model_files import ModelSpec
fetch_model(model=ModelSpec("mine", "hub", name="owner/tiny", revision="main"), manifest=sys.argv[1])
"""


@pytest.fixture
def hub(tiny_directories: dict[str, Path], tmp_path: Path) -> Iterator[LocalHub]:
    """A tiny GPT-2 with its weights in two files."""
    directory = Path(shutil.copytree(tiny_directories["gpt2"], tmp_path / "served"))
    (directory / "model.safetensors").unlink()
    for number in (1, 2):
        (directory / f"model-{number}.safetensors").write_bytes(bytes([number]) * 10_000)
    index = {"weight_map": {str(number): f"model-{number}.safetensors" for number in (1, 2)}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    served = LocalHub(directory)
    yield served
    served.close()


def start(hub: LocalHub, manifest: Path) -> subprocess.Popen[str]:
    """A process that fetches the model."""
    environment = os.environ | {"HF_ENDPOINT": hub.address, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    environment |= {"no_proxy": "127.0.0.1", "HF_HOME": str(manifest.parents[2] / "home")}
    environment["PYTHONPATH"] = str(Path(fetching.__file__).parents[1])
    return subprocess.Popen(
        [sys.executable, "-c", FETCH, str(manifest)],
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def test_a_killed_download_goes_on_and_a_living_one_is_left_alone(hub: LocalHub, tmp_path: Path) -> None:
    manifest = tmp_path / "models" / "mine" / "manifest.json"
    partial = tmp_path / "models" / ".mine.partial"
    whole = {file.name for file in hub.directory.iterdir()} - {"model-2.safetensors"}
    hub.held = "model-2.safetensors"
    first = start(hub, manifest)
    try:
        assert hub.holding.wait(60)
        deadline = time.monotonic() + 30
        while not whole <= {file.name for file in (partial / COMMIT).iterdir()}:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        asked = list(hub.sent)
        second = start(hub, manifest)
        printed, _ = second.communicate(timeout=60)
        assert second.returncode == 1
        assert f"BusyError: models.mine: process {first.pid} on " in printed
        assert hub.sent == asked
    finally:
        first.kill()
        first.communicate()
    assert first.returncode == -signal.SIGKILL
    assert sorted(asked) == sorted([*whole, "model-2.safetensors"])
    assert list(partial.rglob("*.incomplete"))

    hub.held = None
    hub.sent.clear()
    third = start(hub, manifest)
    printed, _ = third.communicate(timeout=60)
    assert third.returncode == 0, printed
    assert hub.sent == ["model-2.safetensors"]
    assert [path.name for path in manifest.parent.parent.iterdir()] == ["mine"]
    assert {path.name for path in manifest.parent.iterdir()} == whole | {"model-2.safetensors", "manifest.json"}
    check_manifest(manifest.parent, "models.mine", hashes=True)
