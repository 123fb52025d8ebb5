"""Compiled loops, kept between processes: compiling takes seconds, and a run of the workflow has dozens of jobs.

A kept loop has to give the same bits as the one that it was kept from, and to be compiled anew when its code changes:

* A loop is one function, and what it calls is `inlined` into it. A function that is called stays in the object file
  twice, as it was compiled first and as it was optimised again within its caller. Then the process that compiles runs
  the one and a process that loads runs the other, with sums associated differently: other last digits.
* The folder's name holds a digest of all files beside this one. Numba itself looks at the file that a function stands
  in, not at those that it imports.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba import config, njit

SOURCES = Path(__file__).parent


def kept(loop: Callable[..., Any], variant: str = "") -> Any:
    """Compile `loop` when it is first called, or load what an earlier process compiled.

    Args:
        variant: a loop that is called with arguments of several types is kept once for each of them, under a name.
            Two processes that write different compilations of one loop at the same time get into each other's way.
    """
    before, folder = config.CACHE_DIR, directory(config.CACHE_DIR)
    config.CACHE_DIR = str(folder / variant) if folder else ""  # looked at when a function is decorated
    try:
        return njit(nogil=True, cache=folder is not None)(loop)
    finally:
        config.CACHE_DIR = before


def inlined(function: Callable[..., Any], *, reassociate: bool = False) -> Any:
    """Compile `function` into the loops that call it.

    Args:
        reassociate: its float32 sums may be taken in any order, as vector code does.
    """
    fastmath = {"reassoc", "nsz"} if reassociate else False
    return njit(nogil=True, forceinline=True, fastmath=fastmath)(function)


def directory(base: str = "", sources: Path = SOURCES) -> Path | None:
    """The folder for compiled loops: in `base` (NUMBA_CACHE_DIR), else beside the code; None where none can be made."""
    digest = hashlib.sha256()
    for file in sorted(sources.glob("*.py")):
        digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    folder = (Path(base) if base else sources / "__pycache__") / f"compiled_{digest.hexdigest()[:16]}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return folder if os.access(folder, os.W_OK) else None
