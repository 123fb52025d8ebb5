"""Fetching from a hub that is faked: real exception classes, a tiny local directory in place of downloads."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import multiprocessing
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import datasets
import pytest
from fake_hub import COMMIT, FAULTS, FakeHub
from huggingface_hub import utils as hub_utils
from neuronlab import fetching, partial_downloads
from neuronlab.documents import TextSpec
from neuronlab.fetching import FetchError, fetch_model, fetch_text
from neuronlab.model_files import ModelError, ModelSpec, check_manifest
from neuronlab.models import load_model
from neuronlab.partial_downloads import BusyError
from neuronlab.tables import read_table

SPEC = ModelSpec("mine", "hub", name="owner/tiny", revision="main", device="cpu")
TEXT = TextSpec("mine", source="hub", name="owner/words", revision="main", max_documents=3)


@pytest.fixture
def fake(tiny_directories, tmp_path, monkeypatch):
    """A hub with a tiny GPT-2."""
    served = FakeHub(Path(shutil.copytree(tiny_directories["gpt2"], tmp_path / "served")))
    monkeypatch.setattr(fetching, "HfApi", lambda: served)
    monkeypatch.setattr(fetching, "snapshot_download", served.snapshot_download)
    return served


@pytest.fixture
def manifest(tmp_path):
    return tmp_path / "inputs" / "models" / "mine" / "manifest.json"


# ---- models


def test_a_fetched_model_is_whole_and_loads(fake, manifest):
    (fake.directory / "onnx").mkdir()
    for extra in ("onnx/model.onnx", "tf_model.h5", "pytorch_model.bin", "modeling.py", "consolidated.safetensors"):
        (fake.directory / extra).write_bytes(b"x")
    fetch_model(model=SPEC, manifest=manifest)
    record = json.loads(manifest.read_text())
    assert (record["name"], record["revision"], record["commit"]) == ("owner/tiny", "main", COMMIT)
    fetched = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert set(record["files"]) == fetched
    assert {path.name for path in manifest.parent.iterdir()} == fetched | {"manifest.json"}
    assert [path.name for path in manifest.parent.parent.iterdir()] == ["mine"]  # no temporary folder stays
    check_manifest(manifest.parent, "models.mine", hashes=True)
    spec = ModelSpec("mine", "hub", path=str(manifest.parent), name="owner/tiny", revision="main", device="cpu")
    assert load_model(spec).d_model == 32


def test_code_is_fetched_only_where_it_is_trusted(fake, manifest):
    (fake.directory / "modeling.py").write_text("raise SystemExit")
    fetch_model(model=ModelSpec("mine", "hub", name="owner/tiny", trust_remote_code=True), manifest=manifest)
    assert (manifest.parent / "modeling.py").is_file()


def test_bin_weights_only_where_there_are_no_safetensors(fake, manifest):
    weights = fake.directory / "model.safetensors"
    weights.rename(fake.directory / "pytorch_model.bin")
    fetch_model(model=SPEC, manifest=manifest)
    assert (manifest.parent / "pytorch_model.bin").is_file()


def test_sharded_weights_come_with_their_index(fake, manifest):
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    (fake.directory / "model.safetensors").unlink()
    for name in names:
        (fake.directory / name).write_bytes(name.encode())
    index = {"weight_map": {str(i): name for i, name in enumerate(names)}}
    (fake.directory / "model.safetensors.index.json").write_text(json.dumps(index))
    fetch_model(model=SPEC, manifest=manifest)
    assert {*names, "model.safetensors.index.json"} <= set(json.loads(manifest.read_text())["files"])


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("call", ["auth_check", "model_info", "snapshot_download"])
def test_faults_of_the_hub_are_told_clearly(fake, manifest, fault, call):
    make, words = FAULTS[fault]
    fake.faults[call] = make()
    with pytest.raises(FetchError, match=r"^models\.mine" + words if words.startswith(r"\.") else words):
        fetch_model(model=SPEC, manifest=manifest)
    assert not manifest.parent.exists()
    assert "model.safetensors" not in fake.downloads


@pytest.mark.parametrize(
    ("file", "words"),
    [("config.json", "holds no config.json"), ("tokenizer.json", "no tokenizer"), ("model.safetensors", "no weights")],
)
def test_what_cannot_be_a_model_is_seen_before_anything_is_fetched(fake, manifest, file, words):
    (fake.directory / file).unlink()
    with pytest.raises(FetchError, match=r"models\.mine\.name: 'owner/tiny'") as caught:
        fetch_model(model=SPEC, manifest=manifest)
    assert words in str(caught.value)
    assert fake.downloads == []


def test_an_unsupported_model_is_seen_before_its_weights_are_fetched(fake, manifest):
    (fake.directory / "config.json").write_text(json.dumps({"model_type": "mixtral", "num_local_experts": 8}))
    with pytest.raises(ModelError, match=r"models\.mine: .* mixture of 8 experts"):
        fetch_model(model=SPEC, manifest=manifest)
    assert fake.downloads == ["config.json"]


@pytest.mark.parametrize("damaged", ["model.safetensors", "tokenizer.json"])
def test_of_a_damaged_download_the_damaged_file_alone_is_fetched_again(fake, manifest, damaged):
    """Small files are known by git's id of their content, large ones by their sha256."""
    fake.damage = {damaged}
    with pytest.raises(FetchError, match=rf"models\.mine: '{damaged}' of 'owner/tiny' arrived damaged: \d+ bytes, the"):
        fetch_model(model=SPEC, manifest=manifest)
    assert not manifest.parent.exists()
    fake.damage.clear()
    fake.downloads.clear()
    fetch_model(model=SPEC, manifest=manifest)
    assert fake.downloads == [damaged]
    check_manifest(manifest.parent, "models.mine", hashes=True)


def test_whole_files_are_used_again_and_damaged_ones_fetched_again(fake, manifest, capsys):
    fetch_model(model=SPEC, manifest=manifest)
    first = manifest.read_bytes()
    manifest.unlink()  # as Snakemake does before it runs a rule again
    fake.downloads.clear()
    fetch_model(model=SPEC, manifest=manifest)
    assert "model.safetensors" not in fake.downloads
    assert manifest.read_bytes() == first
    weights = manifest.parent / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    fake.downloads.clear()
    fetch_model(model=SPEC, manifest=manifest)
    assert "model.safetensors" in fake.downloads
    assert "model.safetensors: sha256 differs from the hub's" in capsys.readouterr().out
    assert manifest.read_bytes() == first
    check_manifest(manifest.parent, "models.mine", hashes=True)


def test_a_failed_fetch_keeps_what_was_there(fake, manifest):
    fetch_model(model=SPEC, manifest=manifest)
    before = {path.name: path.read_bytes() for path in manifest.parent.iterdir()}
    (fake.directory / "model.safetensors").write_bytes(b"another revision")
    fake.damage = {"model.safetensors"}
    with pytest.raises(FetchError, match="arrived damaged"):
        fetch_model(model=SPEC, manifest=manifest)
    assert {path.name: path.read_bytes() for path in manifest.parent.iterdir()} == before


# ---- interrupted downloads


@pytest.fixture
def two_shards(fake):
    """The weights in two files, so that one can be there without the other."""
    (fake.directory / "model.safetensors").unlink()
    for number in (1, 2):
        (fake.directory / f"model-{number}.safetensors").write_bytes(bytes(100 * number))
    index = {"weight_map": {str(number): f"model-{number}.safetensors" for number in (1, 2)}}
    (fake.directory / "model.safetensors.index.json").write_text(json.dumps(index))
    return fake


def interrupted(fake, manifest, file="model-2.safetensors"):
    """A download whose connection breaks in a file; the folder that stays of it."""
    fake.break_at = file
    with pytest.raises(FetchError, match=r"models\.mine: the download of 'owner/tiny' broke off .*same command again"):
        fetch_model(model=SPEC, manifest=manifest)
    fake.break_at = None
    assert not manifest.exists()
    fake.downloads.clear()
    return manifest.parent.with_name(".mine.partial") / COMMIT


def test_an_interrupted_download_goes_on_with_what_is_missing(two_shards, manifest, capsys):
    partial = interrupted(two_shards, manifest)
    assert f"models.mine: what has arrived is kept in '{partial}'" in capsys.readouterr().out
    assert (partial / "model-1.safetensors").is_file()
    assert not (partial / ".cache").exists()  # with the beginning of the file that broke off, which nothing reads
    fetch_model(model=SPEC, manifest=manifest)
    assert set(two_shards.downloads) & {"config.json", "model-1.safetensors"} == set()
    assert "model-2.safetensors" in two_shards.downloads
    assert [path.name for path in manifest.parent.parent.iterdir()] == ["mine"]
    check_manifest(manifest.parent, "models.mine", hashes=True)
    resumed = manifest.read_bytes()
    shutil.rmtree(manifest.parent)
    fetch_model(model=SPEC, manifest=manifest)
    assert manifest.read_bytes() == resumed  # as if nothing had happened


@pytest.mark.parametrize(("name", "what"), [("model-1.safetensors", "sha256"), ("config.json", "content")])
def test_a_file_that_was_damaged_since_is_fetched_again(two_shards, manifest, capsys, name, what):
    file = interrupted(two_shards, manifest) / name
    content = file.read_bytes()
    file.write_bytes(content[:-1] + b"?")
    fetch_model(model=SPEC, manifest=manifest)
    assert name in two_shards.downloads
    assert f"{file}: {what} differs from the hub's" in capsys.readouterr().out
    assert (manifest.parent / name).read_bytes() == content


def test_git_knows_content_by_this_id(tmp_path):
    """`printf 'hello\\n' | git hash-object --stdin`"""
    (tmp_path / "file").write_bytes(b"hello\n")
    assert partial_downloads.git_blob(tmp_path / "file") == "ce013625030ba8dba906f756967f9e9ca394464a"


def test_a_killed_download_goes_on_with_what_is_missing(two_shards, manifest):
    """kill -9 in a process of its own: nothing is cleaned up, and the lock is free again."""
    two_shards.break_at = "model-2.safetensors"
    two_shards.break_off = lambda: os.kill(os.getpid(), signal.SIGKILL)
    process = multiprocessing.get_context("fork").Process(
        target=fetch_model, kwargs={"model": SPEC, "manifest": manifest}
    )
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    partial = manifest.parent.with_name(".mine.partial")
    assert list((partial / COMMIT / ".cache").rglob("*.incomplete"))
    two_shards.break_at = None
    fetch_model(model=SPEC, manifest=manifest)
    assert "model-1.safetensors" not in two_shards.downloads
    assert "model-2.safetensors" in two_shards.downloads
    assert [path.name for path in manifest.parent.parent.iterdir()] == ["mine"]
    assert not (manifest.parent / ".cache").exists()
    check_manifest(manifest.parent, "models.mine", hashes=True)


@pytest.mark.parametrize("error", [RuntimeError("Data processing error"), OSError("Consistency check failed")])
def test_other_ways_to_break_off(two_shards, manifest, error):
    """The hub's Xet storage, and a server that sends less than it announced."""

    def break_off() -> None:
        raise error

    two_shards.break_off = break_off
    partial = interrupted(two_shards, manifest)
    assert (partial / "model-1.safetensors").is_file()


def test_a_full_disk_stays_a_full_disk(two_shards, manifest):
    def break_off() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    two_shards.break_at, two_shards.break_off = "model-2.safetensors", break_off
    with pytest.raises(OSError, match="No space left") as caught:
        fetch_model(model=SPEC, manifest=manifest)
    assert caught.value.errno == errno.ENOSPC


def test_another_revision_takes_nothing_that_differs_and_removes_the_rest(two_shards, manifest):
    obsolete = interrupted(two_shards, manifest)
    two_shards.commit = "e" * 40
    (two_shards.directory / "model-1.safetensors").write_bytes(b"another")
    fetch_model(model=SPEC, manifest=manifest)
    assert not obsolete.parent.exists()
    assert json.loads(manifest.read_text())["commit"] == "e" * 40
    assert (manifest.parent / "model-1.safetensors").read_bytes() == b"another"


def test_code_that_is_no_longer_trusted_does_not_stay(two_shards, manifest):
    (two_shards.directory / "modeling.py").write_text("raise SystemExit")
    two_shards.break_at = "tokenizer.json"  # after modeling.py
    with pytest.raises(FetchError):
        fetch_model(model=replace(SPEC, trust_remote_code=True), manifest=manifest)
    partial = manifest.parent.with_name(".mine.partial")
    assert (partial / COMMIT / "modeling.py").is_file()
    two_shards.break_at = None
    fetch_model(model=SPEC, manifest=manifest)
    assert not list(manifest.parent.parent.rglob("modeling.py"))


def test_a_second_writer_is_refused_while_the_first_one_lives(two_shards, manifest):
    partial = interrupted(two_shards, manifest)
    before = {path.name: path.stat().st_mtime_ns for path in partial.iterdir()}
    with partial_downloads._locked(partial.parent, "models.mine"):
        words = rf"models\.mine: process {os.getpid()} on .* is fetching it into '.*\.mine\.partial'; let it end"
        with pytest.raises(BusyError, match=words):
            fetch_model(model=SPEC, manifest=manifest)
    assert two_shards.downloads == []
    assert {path.name: path.stat().st_mtime_ns for path in partial.iterdir()} == before
    fetch_model(model=SPEC, manifest=manifest)


def test_a_lock_that_was_removed_while_one_waited_for_it_does_not_count(tmp_path, monkeypatch):
    """Its holder was done and removed the folder between this one's opening the lock and locking it."""
    partial, real, taken = tmp_path / ".mine.partial", fcntl.flock, []

    def flock(stream, how):
        taken.append(how)
        if len(taken) == 1:
            shutil.rmtree(partial)
        real(stream, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    with partial_downloads._locked(partial, "models.mine"):
        assert len(taken) == 2
        with (partial / "lock").open() as other, pytest.raises(BlockingIOError):
            real(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_leftovers_of_the_former_naming_are_removed_and_no_others(fake, manifest):
    models = manifest.parent.parent
    for name in (".mine.a1_b2c3d", ".mine.old.a1_b2c3d", ".mine.v2.a1_b2c3d", ".other.a1_b2c3d", "mine.a1_b2c3d"):
        (models / name).mkdir(parents=True)
        (models / name / "model.safetensors").write_bytes(b"half")
    fetch_model(model=SPEC, manifest=manifest)
    left = {path.name for path in models.iterdir()}
    assert left == {"mine", ".mine.v2.a1_b2c3d", ".other.a1_b2c3d", "mine.a1_b2c3d"}


@pytest.mark.parametrize("when", ["before", "between"])
def test_a_kill_while_the_folder_is_put_in_place_costs_nothing(fake, manifest, monkeypatch, when):
    """The target is an empty folder already, as Snakemake makes it."""
    manifest.parent.mkdir(parents=True)
    steps, real = [], Path.rename

    def rename(path, target):
        steps.append(path)
        if len(steps) == {"before": 1, "between": 2}[when]:
            raise KeyboardInterrupt  # nothing of the block's own clean-up is left at this point
        return real(path, target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(KeyboardInterrupt):
        fetch_model(model=SPEC, manifest=manifest)
    assert not manifest.exists()
    fake.downloads.clear()
    monkeypatch.setattr(Path, "rename", real)
    fetch_model(model=SPEC, manifest=manifest)
    assert fake.downloads == []
    check_manifest(manifest.parent, "models.mine", hashes=True)
    assert [path.name for path in manifest.parent.parent.iterdir()] == ["mine"]


def test_a_name_is_needed(manifest):
    with pytest.raises(FetchError, match=r"models\.mine\.name is missing"):
        fetch_model(model=ModelSpec("mine", "hub"), manifest=manifest)


def test_the_real_library_says_offline(manifest, monkeypatch):
    """No fake: with HF_HUB_OFFLINE the library itself refuses."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    hub_utils.close_session()
    with pytest.raises(FetchError, match=r"models\.mine: the hub cannot be reached for 'owner/tiny'"):
        fetch_model(model=SPEC, manifest=manifest)


# ---- texts


ROWS = [{"text": "one", "n": 1}, {"text": "", "n": 2}, {"text": None, "n": 3}, {"text": "two", "n": 4}] + [
    {"text": f"more {n}", "n": n} for n in range(5, 9)
]


@pytest.fixture
def fake_text(fake, monkeypatch):
    """A hub with a data set; `fake_text.calls` notes what is asked of `datasets`."""
    fake.calls = []

    def load_dataset(name, subset, *, split, revision, streaming):
        fake._fail("load_dataset")
        fake.calls.append((name, subset, split, revision, streaming))
        return iter(ROWS) if streaming else ROWS

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return fake


def fetch(tmp_path, text=TEXT):
    paths = {"documents": tmp_path / "documents.parquet", "manifest": tmp_path / "manifest.json"}
    fetch_text(text=text, **paths)
    return read_table(paths["documents"], "documents"), json.loads(paths["manifest"].read_text())


def test_a_fetched_text_is_documents_with_a_manifest(fake_text, tmp_path):
    frame, record = fetch(tmp_path)
    assert frame.rows() == [(0, "one"), (1, "two"), (2, "more 5")]
    assert fake_text.calls == [("owner/words", None, "train", COMMIT, True)]  # streamed: only what is needed
    assert (record["name"], record["commit"], record["documents"]) == ("owner/words", COMMIT, 3)
    content = (tmp_path / "documents.parquet").read_bytes()
    assert record["files"]["documents.parquet"]["sha256"] == hashlib.sha256(content).hexdigest()


def test_without_a_limit_the_whole_text_is_fetched(fake_text, tmp_path):
    frame, _ = fetch(tmp_path, TextSpec("mine", source="hub", name="owner/words", subset="en", split="test"))
    assert frame["text"].to_list() == ["one", "two", "more 5", "more 6", "more 7", "more 8"]
    assert fake_text.calls == [("owner/words", "en", "test", COMMIT, False)]


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("call", ["auth_check", "dataset_info", "load_dataset"])
def test_faults_of_the_hub_are_told_clearly_for_texts(fake_text, tmp_path, fault, call):
    make, words = FAULTS[fault]
    fake_text.faults[call] = make()
    with pytest.raises(FetchError, match=r"^texts\.mine" + words if words.startswith(r"\.") else words):
        fetch(tmp_path)
    assert not list(tmp_path.glob("*.parquet")) + list(tmp_path.glob("*.json"))


def test_unknown_subset_and_split_pass_on_what_the_library_lists(fake_text, tmp_path):
    fake_text.faults["load_dataset"] = ValueError("Unknown split \"tran\". Should be one of ['train', 'test'].")
    with pytest.raises(FetchError, match=r"texts\.mine: 'owner/words' cannot be read: Unknown split .*'train', 'test'"):
        fetch(tmp_path)


@pytest.mark.parametrize(
    ("column", "words"), [("body", "has no column 'body'; it has n, text"), ("n", "'n' of 'owner/words' holds int")]
)
def test_unknown_or_unfit_column(fake_text, tmp_path, column, words):
    with pytest.raises(FetchError, match=r"texts\.mine\.column: ") as caught:
        fetch(tmp_path, TextSpec("mine", source="hub", name="owner/words", column=column))
    assert words in str(caught.value)
    assert not (tmp_path / "documents.parquet").exists()


def test_a_text_without_documents(fake_text, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **options: [{"text": " "}])
    with pytest.raises(FetchError, match=r"texts\.mine: split 'train' of 'owner/words' holds no text"):
        fetch(tmp_path)
