"""Snakemake's command line in forks of one process that has everything imported: a second of work instead of four.

Every request gets a fork of its own, with its own arguments, environment and working directory, which sees nothing of
the requests before it. Jobs are started as ever, unless they get a Python that is warm, too (warm_jobs.py). The
workflow's own modules are imported once, from the copy of the code that the process serves: an edit that must be seen
while the workflow is parsed needs a process of its own too.

Run as a program, it answers requests, one JSON object a line.
"""

from __future__ import annotations

import atexit
import json
import os
import re
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from functools import cache
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

LIMIT = 600  # seconds


class WarmSnakemake:
    """The process, as its user sees it."""

    def __init__(self, code: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, str(code)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        atexit.register(self.end)

    def run(
        self, arguments: list[str], *, directory: Path, environment: dict[str, str], python: Path | None = None
    ) -> tuple[int, str]:
        """Exit status of Snakemake, and its output. `python`: what runs the scripts of jobs, if not this Python."""
        request = {
            "arguments": arguments,
            "directory": str(directory),
            "environment": environment,
            "python": str(python or sys.executable),
        }
        print(json.dumps(request), file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        assert answer, "the process that runs Snakemake has died"
        status, output = json.loads(answer)
        return status, output

    def end(self) -> None:
        self.process.stdin.close()
        self.process.wait()


@cache
def warm_snakemake(code: Path) -> WarmSnakemake:
    """The process that serves a copy of the code; it ends with the tests."""
    return WarmSnakemake(code)


def import_everything(code: Path) -> None:
    """What every dry run imports, once for all of them."""
    sys.path.insert(0, str(code / "workflow_scripts"))
    import nbformat  # noqa: F401
    import polars  # noqa: F401
    import requests  # noqa: F401
    import smart_open  # noqa: F401
    import snakemake.cli
    import yaml
    import yte  # noqa: F401
    from neuronlab import configuration_copying, configuration_stages, model_sizes, published_models  # noqa: F401

    snakemake.cli.get_argument_parser()  # looks for plugins
    yaml.SafeLoader, yaml.FullLoader = yaml.CSafeLoader, yaml.CFullLoader  # the same in C


def stamps(code: Path) -> dict[str, tuple[int, int]]:
    """Times and sizes of all files of the code: whether what was read of them holds."""
    files = [*code.glob("workflow_scripts/**/*.py"), *code.glob("rules/*.smk"), code / "Snakefile"]
    return {str(path): (status.st_mtime_ns, status.st_size) for path in files for status in [path.stat()]}


def read_everything(code: Path) -> Callable[[], None]:
    """Parse rules and modules, once for all; what is returned puts the outcome in place of the parsers."""
    from neuronlab import digest
    from snakemake import workflow
    from snakemake.sourcecache import infer_source_file

    read = stamps(code)
    digests = {script: digest.code_digest(script) for script in (code / "workflow_scripts").glob("*.py")}
    opened = SimpleNamespace(open=lambda file: StringIO(Path(file.get_path_or_uri(secret_free=True)).read_text()))
    source = SimpleNamespace(sourcecache=opened)
    parse, parsed, rules = workflow.parse, {}, 0
    main = code / "Snakefile"
    for path in (main, *(code / name for name in re.findall(r'^include: "(.*)"', main.read_text(), re.MULTILINE))):
        lines: dict[int, int] = {}
        before = rules
        text, rules = parse(infer_source_file(str(path)), source, lines, rulecount=before)
        parsed[str(path), before] = text, rules, lines

    def known(path: Any, running: Any, linemap: dict[int, int], rulecount: int = 0) -> tuple[str, int]:
        found = parsed.get((path.get_path_or_uri(secret_free=True), rulecount))
        if found is None:
            return parse(path, running, linemap, rulecount=rulecount)
        linemap.update(found[2])
        return found[:2]

    def use() -> None:
        if stamps(code) == read:  # else there are edits
            workflow.parse, digest.code_digest = known, digests.__getitem__

    return use


def serve(request: dict, output: int, prepare: Callable[[], None]) -> NoReturn:
    """Be the snakemake that the request asks for; called in a fork."""
    signal.alarm(LIMIT)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["directory"])
    sys.executable = request["python"]
    sys.argv = ["snakemake", *request["arguments"]]
    status = 1
    try:
        prepare()
        from snakemake.cli import main

        main(request["arguments"])
    except SystemExit as end:
        status = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def answer(request: dict, prepare: Callable[[], None]) -> tuple[int, str]:
    output = os.memfd_create("output")
    child = os.fork()
    if child == 0:
        serve(request, output, prepare)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.lseek(output, 0, os.SEEK_SET)
    with os.fdopen(output, encoding="utf-8", errors="replace") as file:
        return status, file.read()


if __name__ == "__main__":
    import_everything(Path(sys.argv[1]))
    parsed = read_everything(Path(sys.argv[1]))
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line), parsed)), flush=True)
