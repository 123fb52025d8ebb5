"""Downloads from the Hugging Face hub, by two local rules; everything else runs offline.

A model goes into a directory, its manifest beside it in the same directory; a text into one Parquet file of documents.
Each manifest names the commit that the revision stood for and the sha256 of every file. A model is downloaded into a
folder that takes the final name when all is checked, so that a broken one is never mistaken for a model, and that is
kept until then, so that an interrupted download goes on where it was (`partial_downloads`). A text is streamed into one
file, or read through the hub's cache, which keeps what has arrived.

Access comes from the `HF_TOKEN` environment variable or `hf auth login`; no key of the configuration holds a token.
"""

from __future__ import annotations

import json
import sys
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
from neuronlab.partial_downloads import examine, partial_download, published_files, take_up
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
        BusyError: another process is fetching the same model.
        ModelError: config.json names an architecture that is not supported; seen before the weights are fetched.
    """
    name, target = _required(model.name, f"{model.where}.name"), Path(manifest).parent
    info = look_up_model(model)
    names = wanted_files([sibling.rfilename for sibling in info.siblings or []], model)
    published = published_files(info.siblings, names)
    with partial_download(target, info.sha, model.where) as partial:
        files = take_up(partial, target, published)
        if "config.json" not in files:
            download(model, name, info.sha, ["config.json"], partial)
        check_model_config(partial, model.where)
        download(model, name, info.sha, [file for file in names if not (partial / file).is_file()], partial)
        arrived = [file for file in names if file not in files]
        for file in tqdm(arrived, desc="sha256", file=sys.stderr):
            files[file], difference = examine(partial / file, published[file])
            if difference:
                (partial / file).unlink()  # the others are kept
                raise FetchError(
                    f"{model.where}: '{file}' of '{name}' arrived damaged: {difference}; run the workflow again"
                )
        check_model_directory(partial, model.where)
        record = {"name": name, "revision": model.revision, "commit": info.sha, "files": files}
        _write_json(partial / MANIFEST, record)


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
        try:
            snapshot_download(name, revision=commit, allow_patterns=files, local_dir=directory)
        except RuntimeError as error:  # Xet, the hub's storage, names no kinds of failures
            raise FetchError(_broke_off(model.where, name, error)) from error
    absent = [file for file in files if not (directory / file).is_file()]
    if absent:
        raise FetchError(f"{model.where}: the hub did not deliver {', '.join(absent)} of '{name}'; run it again")


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
        if isinstance(error, ValueError | FileNotFoundError) or type(error) is RuntimeError:
            raise FetchError(f"{where}: '{name}' cannot be read: {error}") from error
        if type(error).__name__ in BROKEN_OFF or (isinstance(error, OSError) and error.errno is None):
            raise FetchError(_broke_off(where, name, error)) from error  # hung up, or sent fewer bytes than announced
        raise


NETWORK_ERRORS = frozenset({"ConnectError", "ConnectTimeout", "ReadTimeout", "ReadError", "NetworkError", "ProxyError"})
BROKEN_OFF = frozenset({"RemoteProtocolError", "WriteError", "WriteTimeout", "PoolTimeout", "ChunkedEncodingError"})


OFFLINE_REMEDY = (
    "connect this machine (and unset HF_HUB_OFFLINE) for the rules that fetch, or download elsewhere and use "
    "`source: directory` or `source: file`"
)


def _broke_off(where: str, name: str, error: Exception) -> str:
    kind = type(error).__name__
    return f"{where}: the download of '{name}' broke off ({kind}: {error}); type the same command again"


def _offline(where: str, name: str) -> str:
    return f"{where}: the hub cannot be reached for '{name}'; {OFFLINE_REMEDY}"
