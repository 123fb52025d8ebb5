"""Claiming GPUs by locks: real processes that compete for devices that are named, not there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from neuronlab import devices
from neuronlab.devices import DeviceError, claim, given_by_slurm, resolve_device, visible_gpus

SCRIPTS = Path(devices.__file__).parents[1]
# A job that needs no torch (seconds to import): it claims one of the devices, says which, and holds it.
WORKER = """
import sys, time, types
sys.modules["torch"] = types.SimpleNamespace(device=object)
from pathlib import Path
from neuronlab import devices
devices.POLL = 0.01
folder, seconds, *names = sys.argv[1:]
index = devices.claim(names, Path(folder))
start = time.monotonic()
print("claimed", index, start, flush=True)
time.sleep(float(seconds))
print("done", time.monotonic(), flush=True)
"""


def start(folder: Path, seconds: float, *names: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WORKER, str(folder), str(seconds), *names],
        env=os.environ | {"PYTHONPATH": str(SCRIPTS)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def line(process: subprocess.Popen[str], stream: str = "stdout") -> list[str]:
    """The next line that a process writes; the test fails if none comes."""
    timer = threading.Timer(30, process.kill)
    timer.start()
    words = getattr(process, stream).readline().split()
    timer.cancel()
    assert words, process.stderr.read()
    return words


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[str]]]:
    """Processes to be ended with the test."""
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture(autouse=True)
def nothing_held(monkeypatch):
    """Each test is a process that holds nothing yet, and leaves nothing locked."""
    held: dict[Path, int] = {}
    monkeypatch.setattr(devices, "_held", held)
    for name in ("SLURM_JOB_ID", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    yield
    for lock in held.values():
        os.close(lock)


@pytest.fixture
def gpus(monkeypatch, tmp_path):
    """`gpus("a", "b")` pretends that this process sees GPUs with these UUIDs; `gpus.chosen` is what torch was told."""
    monkeypatch.setattr(devices.tempfile, "gettempdir", lambda: str(tmp_path))
    chosen: list[int] = []

    def pretend(*uuids: str | None) -> list[int]:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(uuids))
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(uuids))
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(uuid=uuids[index]))
        monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
        return chosen

    return pretend


# ---- what is resolved


def test_auto_claims_a_gpu_and_keeps_to_it(gpus, tmp_path, capsys):
    chosen = gpus("aa", "bb")
    assert resolve_device("auto") == torch.device("cuda", 0)
    assert resolve_device("cuda") == torch.device("cuda", 0)  # a second model of this job goes where the first is
    assert chosen == [0, 0]
    assert capsys.readouterr().err == "GPU aa claimed\n"
    folder = tmp_path / f"neuronlab-gpus-{os.getuid()}"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert f"process {os.getpid()} since" in (folder / "gpu-aa.lock").read_text()


def test_a_taken_gpu_is_passed_by_whatever_its_number(gpus, tmp_path, processes):
    """Another process holds the device that is number 0 there and number 1 here."""
    gpus("aa", "bb", "cc")
    folder = tmp_path / f"neuronlab-gpus-{os.getuid()}"
    folder.mkdir()
    processes.append(start(folder, 60, "bb"))
    assert line(processes[0])[:2] == ["claimed", "0"]
    processes.append(start(folder, 60, "bb", "aa"))
    assert line(processes[1])[:2] == ["claimed", "1"]
    assert resolve_device("cuda") == torch.device("cuda", 2)


def test_a_numbered_gpu_is_that_one(gpus, capsys):
    gpus("aa", "bb")
    assert resolve_device("cuda:1") == torch.device("cuda", 1)
    assert capsys.readouterr().err == "GPU bb claimed\n"
    with pytest.raises(DeviceError, match=r"^compute\.device: there is no 'cuda:2'; GPUs here are 0 to 1"):
        resolve_device("cuda:2")


def test_what_slurm_gave_is_taken_without_a_lock(gpus, tmp_path, monkeypatch):
    gpus("aa")
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    assert resolve_device("auto") == torch.device("cuda", 0)
    assert list(tmp_path.iterdir()) == []


def test_jobs_of_a_local_run_inside_an_allocation_share_its_gpus_out(gpus, monkeypatch, capsys):
    gpus("aa", "bb")
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert given_by_slurm() == 2
    resolve_device("auto")
    assert "GPU aa claimed" in capsys.readouterr().err


def test_without_devices_from_slurm_the_lock_decides(gpus, monkeypatch, capsys):
    """A job of Slurm on a machine whose GPUs it does not manage."""
    gpus("aa", "bb")
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    assert given_by_slurm() == 0
    resolve_device("auto")
    assert "GPU aa claimed" in capsys.readouterr().err


def test_other_devices_need_no_lock(gpus, tmp_path, monkeypatch):
    gpus()
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert resolve_device("auto") == torch.device("mps")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert resolve_device("auto") == torch.device("cpu")
    assert resolve_device("cuda") == torch.device("cuda")  # there is none: putting a model there says so
    gpus("aa")
    assert resolve_device("cpu") == torch.device("cpu")
    assert list(tmp_path.iterdir()) == []


def test_a_defect_15_importing_chooses_no_device() -> None:
    """A module of helpers set CUDA_VISIBLE_DEVICES to 0."""
    code = (
        "import os, neuronlab.ablation_shards, neuronlab.models, torch; "
        "print(os.environ['CUDA_VISIBLE_DEVICES'], torch.cuda.is_initialized())"
    )
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "3", "PYTHONPATH": str(SCRIPTS)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["3", "False"]


def test_names_without_uuids(gpus, monkeypatch):
    gpus(None, None)
    assert visible_gpus() == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, 5")
    assert visible_gpus() == ["2", "5"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5,7")  # not what torch sees
    assert visible_gpus() == ["0", "1"]


@pytest.mark.parametrize("make", [lambda path: path.symlink_to("elsewhere"), lambda path: path.touch()])
def test_a_folder_that_is_not_ones_own_is_refused(gpus, tmp_path, make):
    gpus("aa")
    make(tmp_path / f"neuronlab-gpus-{os.getuid()}")
    with pytest.raises(DeviceError, match="is not a folder of yours; remove it, or set TMPDIR"):
        resolve_device("auto")


def test_a_folder_of_another_user_is_refused(gpus, tmp_path, monkeypatch):
    gpus("aa")
    monkeypatch.setattr(devices.os, "getuid", lambda: 4321)  # somebody who is not the owner of what this test makes
    (tmp_path / "neuronlab-gpus-4321").mkdir()
    with pytest.raises(DeviceError, match="is not a folder of yours"):
        resolve_device("auto")


def test_a_file_system_without_locks_is_told(gpus, monkeypatch):
    gpus("aa")

    def refuse(lock: int, how: int) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(devices.fcntl, "flock", refuse)
    with pytest.raises(DeviceError, match=r"cannot be locked .*No locks available.* set TMPDIR"):
        resolve_device("auto")


# ---- who gets it


def test_never_two_holders_and_no_device_idle(tmp_path, processes):
    """Seven jobs on two devices: intervals on one device do not overlap, and both are used at once."""
    processes += [start(tmp_path, 0.2, "aa", "bb") for _ in range(7)]
    held: dict[str, list[tuple[float, float]]] = {"0": [], "1": []}
    for process in processes:
        out, _ = process.communicate(timeout=60)
        _, index, begin, _, end = out.split()
        held[index].append((float(begin), float(end)))
    for times in held.values():
        times.sort()
        assert all(end <= begin for (_, end), (begin, _) in pairwise(times))
    assert sum(map(len, held.values())) == 7
    assert min(map(len, held.values())) >= 2
    assert any(a[0] < b[1] and b[0] < a[1] for a in held["0"] for b in held["1"])


def test_kill_9_frees_the_device(tmp_path, processes):
    processes.append(start(tmp_path, 60, "aa"))
    line(processes[0])
    processes.append(start(tmp_path, 0, "aa"))
    waiting = " ".join(line(processes[1], "stderr"))
    assert waiting.startswith("every GPU is taken by another job of yours, waiting: aa (process")
    assert f"process {processes[0].pid} since" in waiting
    processes[0].send_signal(signal.SIGKILL)
    assert line(processes[1])[0] == "claimed"
    assert " ".join(line(processes[1], "stderr")).startswith("GPU aa claimed after")


def test_who_waits_first_is_served_first(tmp_path, processes):
    processes.append(start(tmp_path, 60, "aa"))
    line(processes[0])
    for _ in range(4):  # each waits before the next one comes
        processes.append(start(tmp_path, 0.05, "aa"))
        line(processes[-1], "stderr")
    time.sleep(0.1)
    processes[0].kill()
    begins = [float(line(process)[2]) for process in processes[1:]]
    assert begins == sorted(begins)


def test_a_killed_waiter_holds_nobody_up(tmp_path, processes):
    processes.append(start(tmp_path, 60, "aa"))
    line(processes[0])
    for _ in range(2):
        processes.append(start(tmp_path, 0, "aa"))
        line(processes[-1], "stderr")
    processes[1].kill()
    processes[0].kill()
    assert line(processes[2])[0] == "claimed"


def test_ctrl_c_ends_the_wait(tmp_path, processes):
    processes.append(start(tmp_path, 60, "aa"))
    line(processes[0])
    for _ in range(2):  # the first waits for the device, the second for its turn
        processes.append(start(tmp_path, 0, "aa"))
        line(processes[-1], "stderr")
    for process in processes[1:]:
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=10) != 0


def test_programs_that_a_job_starts_do_not_keep_its_device(tmp_path, processes):
    claim(["aa"], tmp_path)
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        processes.append(start(tmp_path, 0, "aa"))
        line(processes[0], "stderr")  # waits
        os.close(devices._held.pop(tmp_path / "gpu-aa.lock"))
        assert line(processes[0])[0] == "claimed"
    finally:
        child.kill()
        child.wait()


def test_a_lock_file_that_was_cleaned_away_is_made_again(tmp_path, monkeypatch):
    """A cleaner removes the file between opening and locking it: the lock would stand for nothing."""
    path, real, first = tmp_path / "gpu-aa.lock", devices.fcntl.flock, []

    def flock(lock: int, how: int) -> None:
        if os.path.samestat(os.fstat(lock), path.stat()) and not first:
            first.append(lock)
            path.unlink()
        real(lock, how)

    monkeypatch.setattr(devices.fcntl, "flock", flock)
    lock = devices._lock(path, devices.fcntl.LOCK_EX)
    assert first
    assert os.path.samestat(os.fstat(lock), path.stat())
    os.close(lock)


NAME = st.text(st.characters(codec="ascii", min_codepoint=33), min_size=1, max_size=12)


@settings(max_examples=40, deadline=None)
@given(names=st.lists(NAME, min_size=1, max_size=4, unique_by=devices._file_name), data=st.data())
def test_whatever_the_names_a_free_device_is_claimed_and_kept(tmp_path_factory, names, data):
    """Some devices are taken (a lock of another open file is as good as another process's): the first free one is
    claimed, and stays claimed for every later call that it is a candidate of."""
    folder = tmp_path_factory.mktemp("locks")
    taken = data.draw(st.sets(st.sampled_from(names), max_size=len(names) - 1))
    others = [devices._lock(folder / f"{devices._file_name(name)}.lock", devices.fcntl.LOCK_EX) for name in taken]
    devices._held.clear()
    try:
        index = claim(names, folder)
        assert names[index] == next(name for name in names if name not in taken)
        shuffled = data.draw(st.permutations(names))
        assert shuffled[claim(shuffled, folder)] == names[index]
        assert all(path.parent == folder for path in folder.rglob("*"))
    finally:
        for lock in [*others, *devices._held.values()]:
            os.close(lock)
        devices._held.clear()
