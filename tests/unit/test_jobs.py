"""The frame around every rule's call: log, provenance, errors about input, offline mode."""

from __future__ import annotations

import errno
import os
import signal
import sys
from types import SimpleNamespace

import pytest
from neuronlab.jobs import job


@pytest.fixture
def snakemake(tmp_path, monkeypatch):
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.setenv(name, "0")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    params = {"code": "0123", "seed": 4, "model": {"path": "x", "ks": (1, 2)}}
    return SimpleNamespace(rule="measure", params=params, log=[str(tmp_path / "logs" / "measure.log")])


def log_of(snakemake) -> str:
    with open(snakemake.log[0]) as log:
        return log.read()


def test_provenance_is_plain_and_free_of_times(snakemake):
    with job(snakemake) as run:
        pass
    assert run.provenance == {
        "code": "0123",
        "rule": "measure",
        "parameters": {"seed": 4, "model": {"path": "x", "ks": [1, 2]}},
        "threads": 1,
    }


def test_output_goes_to_the_terminal_and_to_the_log(snakemake, capsys):
    with job(snakemake):
        print("halfway")
        sys.stderr.write("10%\r20%\n")
    captured = capsys.readouterr()
    assert "halfway" in captured.out
    assert "10%\r20%" in captured.err
    text = log_of(snakemake)
    assert "measure on" in text
    assert "halfway\n10%\n20%" in text
    assert "neuronlab.jobs" in text.split("modules: ")[1]
    assert "done in" in text


def test_streams_are_restored(snakemake):
    before = sys.stdout, sys.stderr
    with job(snakemake):
        assert (sys.stdout, sys.stderr) != before
    assert (sys.stdout, sys.stderr) == before


def fail(snakemake, error):
    with job(snakemake):
        raise error


def test_an_error_about_input_ends_with_its_message(snakemake, capsys):
    with pytest.raises(SystemExit) as exit_:
        fail(snakemake, ValueError("texts.prose: too short"))
    assert exit_.value.code == 1
    shown = capsys.readouterr().err
    assert "measure: texts.prose: too short" in shown
    assert "Traceback" not in shown
    assert "Traceback" in log_of(snakemake)


def test_a_defect_shows_its_traceback(snakemake):
    with pytest.raises(KeyError):
        fail(snakemake, KeyError("gone"))
    assert "KeyError: 'gone'" in log_of(snakemake)


@pytest.mark.parametrize(("network", "value"), [(False, "1"), (True, "0")])
def test_only_fetching_jobs_see_the_network(snakemake, network, value):
    snakemake.params["network"] = network
    with job(snakemake):
        assert os.environ["HF_HUB_OFFLINE"] == value


def test_a_full_disk_ends_with_the_file_and_the_remedy(snakemake, capsys):
    with pytest.raises(SystemExit) as exit_:
        fail(snakemake, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "results/0.parquet"))
    assert exit_.value.code == 1
    shown = capsys.readouterr().err
    assert "measure: results/0.parquet: no space left on device" in shown
    assert "Make room and type the same command again" in shown
    assert "Traceback" not in shown
    assert "Traceback" in log_of(snakemake)


def test_other_errors_of_the_system_show_their_traceback(snakemake):
    with pytest.raises(PermissionError):
        fail(snakemake, PermissionError(errno.EACCES, "no", "results/0.parquet"))
    assert "PermissionError" in log_of(snakemake)


def test_a_log_without_room_does_not_hide_the_job(snakemake, capsys):
    log = snakemake.log[0]
    os.makedirs(os.path.dirname(log))
    os.symlink("/dev/full", log)
    with job(snakemake):
        print("halfway")
    captured = capsys.readouterr()
    assert "halfway" in captured.out
    assert f"({log} is incomplete: No space left on device)" in captured.err


def stopped(snakemake, number, undone):
    with job(snakemake):
        try:
            signal.raise_signal(number)
        finally:
            undone.append("temporary files")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_signals_end_a_job_as_an_exception_does(snakemake, number, code):
    before, undone = signal.signal(number, signal.SIG_DFL), []
    try:
        with pytest.raises(SystemExit) as exit_:
            stopped(snakemake, number, undone)
        assert signal.getsignal(number) == signal.SIG_DFL
    finally:
        signal.signal(number, before)
    assert exit_.value.code == code
    assert undone == ["temporary files"]
    assert f"SystemExit: {code}" in log_of(snakemake)


def test_a_job_under_nohup_outlives_its_terminal(snakemake):
    before, undone = signal.signal(signal.SIGHUP, signal.SIG_IGN), []
    try:
        stopped(snakemake, signal.SIGHUP, undone)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    assert "done in" in log_of(snakemake)
