"""Downloads from the Hugging Face hub, by two local rules; everything else runs offline.

A model goes into a directory, its manifest beside it in the same directory; a text into one Parquet file of documents.
Each manifest names the commit that the revision stood for and the sha256 of every file. A download happens in a
temporary folder that takes the final name when all is checked, so that a broken one is never mistaken for a model.

Access comes from the `HF_TOKEN` environment variable or `hf auth login`; no key of the configuration holds a token.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import polars as pl
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from tqdm import tqdm

from neuronlab.documents import TextSpec
from neuronlab.model_files import (
    MANIFEST,
    TOKENIZER_FILES,
    ModelSpec,
    check_model_config,
    check_model_directory,
    file_record,
)
from neuronlab.tables import Provenance, atomic_path, write_table

# What a model consists of besides its weights; code only where the configuration trusts it.
SMALL_FILES = frozenset(
    {
        "config.json",
        "generation_config.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "merges.txt",
        *TOKENIZER_FILES,
    }
)


class FetchError(ValueError):
    """A download that cannot be made; the message names the config key, the reason and the remedy."""


class HubUnreachable(FetchError):
    """No network, or none allowed: whatever else is asked of the hub will fail likewise."""


def fetch_model(*, model: ModelSpec, manifest: str | Path) -> None:
    """Rule `fetch_model`: one model at its revision, with a manifest; files already there are used if they are whole.

    The manifest says nothing of the code that fetched: it stands for the model in the inputs of other rules, which
    have no reason to run again while the files are the same.

    Args:
        manifest: path of manifest.json; the model's files go into the same directory.

    Raises:
        FetchError: no access (gated), no network, no such model or revision, no weights, a damaged download.
        ModelError: config.json names an architecture that is not supported; seen before the weights are fetched.
    """
    name, target = _required(model.name, f"{model.where}.name"), Path(manifest).parent
    info = look_up_model(model)
    names = wanted_files([sibling.rfilename for sibling in info.siblings or []], model)
    published = {sibling.rfilename: sibling for sibling in info.siblings or []}
    hashes = {file: published[file].lfs.sha256 for file in names if published[file].lfs is not None}
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        download(model, name, info.sha, ["config.json"], temporary)
        check_model_config(temporary, model.where)
        _keep_whole_files(target, temporary, hashes)
        missing = [file for file in names if not (temporary / file).is_file()]
        download(model, name, info.sha, missing, temporary)
        shutil.rmtree(temporary / ".cache", ignore_errors=True)  # the hub's bookkeeping
        files = {file: file_record(temporary / file) for file in tqdm(names, desc="sha256", disable=None)}
        for file, expected in hashes.items():
            if files[file]["sha256"] != expected:
                raise FetchError(
                    f"{model.where}: '{file}' of '{name}' arrived damaged: its sha256 is not the hub's "
                    f"{expected}; run the workflow again"
                )
        check_model_directory(temporary, model.where)
        record = {"name": name, "revision": model.revision, "commit": info.sha, "files": files}
        _write_json(temporary / MANIFEST, record)
        temporary.chmod(0o755)  # mkdtemp makes it private
        _replace_directory(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def fetch_text(
    *, text: TextSpec, documents: str | Path, manifest: str | Path, provenance: Provenance | None = None
) -> None:
    """Rule `fetch_text`: the documents of one data set at its revision as table "documents", with a manifest.

    With `max_documents` the data set is streamed, and no more than that is fetched.

    Raises:
        FetchError: no access, no network, no such data set, revision, subset, split or column, or no documents.
    """
    from datasets import load_dataset  # seconds to import, wanted only here

    name = _required(text.name, f"{text.where}.name")
    commit = look_up_text(text).sha
    streaming = text.max_documents is not None
    with clear_errors(text.where, name, text.revision):
        rows = load_dataset(name, text.subset, split=text.split, revision=commit, streaming=streaming)
        found = list(islice(_texts(rows, text), text.max_documents))
    if not found:
        raise FetchError(f"{text.where}: split '{text.split}' of '{name}' holds no text; choose another split")
    write_table(
        pl.DataFrame({"document": range(len(found)), "text": found}, schema={"document": pl.Int32, "text": pl.String}),
        documents,
        "documents",
        provenance,
    )
    record = {"name": name, "revision": text.revision, "commit": commit, "files": {}, "documents": len(found)}
    record["files"] = {Path(documents).name: file_record(Path(documents))}
    record |= {"text": {key: value for key, value in asdict(text).items() if key in ("subset", "split", "column")}}
    _write_json(Path(manifest), record)


def look_up_model(model: ModelSpec) -> Any:
    """What the hub says of a model at its revision, access checked: commit (`sha`), files with sizes (`siblings`).

    Raises:
        FetchError: no access, no such model or revision; HubUnreachable without a network.
    """
    name = _required(model.name, f"{model.where}.name")
    with clear_errors(model.where, name, model.revision):
        api = HfApi()
        api.auth_check(name)
        return api.model_info(name, revision=model.revision, files_metadata=True)


def look_up_text(text: TextSpec, *, files: bool = False) -> Any:
    """What the hub says of a data set at its revision, likewise; sizes only with `files` (some have thousands).

    Raises:
        FetchError: as for a model.
    """
    name = _required(text.name, f"{text.where}.name")
    with clear_errors(text.where, name, text.revision):
        api = HfApi()
        api.auth_check(name, repo_type="dataset")
        return api.dataset_info(name, revision=text.revision, files_metadata=files)


def _texts(rows: Any, text: TextSpec) -> Iterator[str]:
    """Texts of the rows that are not empty."""
    for row in rows:
        if text.column not in row:
            raise FetchError(
                f"{text.where}.column: '{text.name}' has no column '{text.column}'; it has {', '.join(sorted(row))}"
            )
        value = row[text.column]
        if value is not None and not isinstance(value, str):
            kind = type(value).__name__
            raise FetchError(f"{text.where}.column: '{text.column}' of '{text.name}' holds {kind}, not text")
        if value and value.strip():
            yield value


def _required(value: str | None, where: str) -> str:
    if not value:
        raise FetchError(f"{where} is missing: source 'hub' needs the name on the Hugging Face hub")
    return value


def wanted_files(names: list[str], model: ModelSpec) -> list[str]:
    """Files to fetch: configuration, tokenizer, one set of weights; never other formats or copies in sub-folders.

    Raises:
        FetchError: nothing usable among them.
    """
    top = {name for name in names if "/" not in name}
    weights = sorted(name for name in top if name.startswith("model") and name.endswith(".safetensors"))
    if "model.safetensors" in weights:
        weights = ["model.safetensors"]
    elif weights and "model.safetensors.index.json" in top:
        weights.append("model.safetensors.index.json")
    elif not weights:
        weights = sorted(
            name for name in top if name.startswith("pytorch_model") and name.endswith((".bin", ".bin.index.json"))
        )
    for what, present in (
        ("config.json", "config.json" in top),
        ("weights (model*.safetensors or pytorch_model*.bin)", bool(weights)),
        (f"tokenizer (one of {', '.join(TOKENIZER_FILES)})", bool(top & set(TOKENIZER_FILES))),
    ):
        if not present:
            raise FetchError(f"{model.where}.name: '{model.name}' on the hub holds no {what}; choose another model")
    small = {name for name in top if name in SMALL_FILES or (model.trust_remote_code and name.endswith(".py"))}
    return sorted(small | set(weights))


def download(model: ModelSpec, name: str, commit: str, files: list[str], directory: Path) -> None:
    """Fetch some files of a model at a commit.

    Raises:
        FetchError: as `look_up_model`, or if a file did not arrive.
    """
    if not files:
        return
    with clear_errors(model.where, name, model.revision):
        snapshot_download(name, revision=commit, allow_patterns=files, local_dir=directory)
    absent = [file for file in files if not (directory / file).is_file()]
    if absent:
        raise FetchError(f"{model.where}: the hub did not deliver {', '.join(absent)} of '{name}'; run it again")


def _keep_whole_files(source: Path, destination: Path, hashes: dict[str, str]) -> None:
    """Take over large files of an earlier download whose sha256 is what the hub says; name those that are damaged."""
    for file, expected in hashes.items():
        if not (source / file).is_file():
            continue
        if file_record(source / file)["sha256"] == expected:
            try:
                (destination / file).hardlink_to(source / file)
            except OSError:  # not every file system has links
                shutil.copy2(source / file, destination / file)
        else:
            print(f"{source / file}: sha256 differs from the hub's (damaged, or of another revision); fetched again")


def _replace_directory(new: Path, target: Path) -> None:
    """Let `new` take the name `target`, whose former content is removed last."""
    if target.exists():
        old = Path(tempfile.mkdtemp(prefix=f".{target.name}.old.", dir=target.parent))
        target.rename(old / target.name)
        new.rename(target)
        shutil.rmtree(old)
    else:
        new.rename(target)


def _write_json(path: Path, record: dict[str, Any]) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(record, indent=2, sort_keys=True, default=str) + "\n", encoding="utf-8")


@contextmanager
def clear_errors(where: str, name: str, revision: str | None) -> Iterator[None]:
    """Turn what the hub's libraries raise into a `FetchError` that says what to do."""
    try:
        yield
    except FetchError:
        raise
    except GatedRepoError as error:
        raise FetchError(
            f"{where}.name: '{name}' is gated: accept its terms at https://huggingface.co/{name} and set HF_TOKEN "
            "(or run `hf auth login`) on this machine"
        ) from error
    except RepositoryNotFoundError as error:
        raise FetchError(
            f"{where}.name: the hub knows no '{name}', or it is private; check the spelling (owner/name), "
            "and set HF_TOKEN if it is private"
        ) from error
    except RevisionNotFoundError as error:
        raise FetchError(
            f"{where}.revision: '{name}' has no revision '{revision}'; give a commit hash, tag or branch that "
            f"https://huggingface.co/{name} lists"
        ) from error
    except (OfflineModeIsEnabled, LocalEntryNotFoundError) as error:
        raise HubUnreachable(_offline(where, name)) from error
    except HFValidationError as error:
        raise FetchError(f"{where}.name: '{name}' is no name on the hub ({error}); write owner/name") from error
    except HfHubHTTPError as error:
        raise FetchError(f"{where}: the hub refused '{name}' ({error}); try again later") from error
    except EntryNotFoundError as error:
        raise FetchError(f"{where}: a file of '{name}' is gone from the hub ({error})") from error
    except Exception as error:
        # Unreachable hosts come as one of several HTTP libraries' own errors; `datasets` raises ValueErrors for
        # unknown subsets and splits whose messages list the known ones.
        if isinstance(error, ConnectionError | TimeoutError) or type(error).__name__ in NETWORK_ERRORS:
            raise HubUnreachable(_offline(where, name)) from error
        if isinstance(error, ValueError | FileNotFoundError):
            raise FetchError(f"{where}: '{name}' cannot be read: {error}") from error
        raise


NETWORK_ERRORS = frozenset({"ConnectError", "ConnectTimeout", "ReadTimeout", "ReadError", "NetworkError", "ProxyError"})


OFFLINE_REMEDY = (
    "connect this machine (and unset HF_HUB_OFFLINE) for the rules that fetch, or download elsewhere and use "
    "`source: directory` or `source: file`"
)


def _offline(where: str, name: str) -> str:
    return f"{where}: the hub cannot be reached for '{name}'; {OFFLINE_REMEDY}"
