"""Whether what was fetched is still what was fetched, byte for byte: minutes for all models of a study.

While the workflow is planned sizes are compared, and jobs do not look at all: to read a model twice would cost more
than most of them. So this is the place where a wrong byte is found.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from neuronlab.model_files import MANIFEST
from neuronlab.preflight_models import Finding, fetch_again, read_manifest

CHUNK = 1 << 24  # bytes read at a time


def check_contents(found: Sequence[Finding]) -> None:
    """Compare everything fetched that is here with the sha256 in its manifest; what differs becomes a problem.

    The progress, in bytes, goes to stderr.
    """
    listed = [(finding, name, expected) for finding in found for name, expected in _files(finding).items()]
    if not listed:
        return
    total = sum(expected["bytes"] for _, _, expected in listed)
    with tqdm(total=total, desc="sha256", unit="B", unit_scale=True, mininterval=1, file=sys.stderr) as progress:
        for finding, name, expected in listed:
            assert finding.fetched is not None
            file = finding.fetched.with_name(name)
            try:
                same = file.stat().st_size == expected["bytes"] and _sha256(file, progress) == expected["sha256"]
                reason = "is not what was fetched (its content differs from the manifest's sha256)"
            except OSError as error:
                same, reason = False, f"cannot be read ({error.strerror})"
            if not same:
                finding.problems.append(
                    f"{finding.kind}s.{finding.name}: '{file}' {reason}; {fetch_again(finding.fetched)}"
                )


def _files(finding: Finding) -> dict[str, dict[str, Any]]:
    return {} if finding.fetched is None else read_manifest(finding.fetched.with_name(MANIFEST))["files"]


def _sha256(file: Path, progress: tqdm) -> str:
    digest = hashlib.sha256()
    with file.open("rb", buffering=0) as stream:
        while chunk := stream.read(CHUNK):
            digest.update(chunk)
            progress.update(len(chunk))
    return digest.hexdigest()
