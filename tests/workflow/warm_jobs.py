"""Jobs of a run in forks of one process that has the large libraries imported: tenths of a second instead of seconds.

`warm_python()` is a program that can stand for the Python that Snakemake runs its scripts with. It hands the script,
its directory, environment and streams to the process, which forks and runs it there; none of this project's modules is
loaded before. Anything but a script goes to the real Python.

Run as a program, this file is the process.
"""

from __future__ import annotations

import atexit
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from functools import cache
from pathlib import Path
from typing import NoReturn

# The program: as little as it can be, for it is started for every job.
CLIENT = """#!{python} -IS
import os, socket, signal, sys
if not sys.argv[1:] or not sys.argv[1].endswith(".py"):
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
import json, select
server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
server.connect({address!r})
request = {{"arguments": sys.argv[1:], "directory": os.getcwd(), "environment": dict(os.environ)}}
socket.send_fds(server, [json.dumps(request).encode()], [0, 1, 2])
job = int(server.recv(32))
process = os.pidfd_open(job)
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, lambda number, _: os.kill(job, number))
status = int(server.recv(32) or 1)
select.select([process], [], [])  # until all its files are closed
sys.exit(status)
"""
LARGEST = 2**17  # of a request, in bytes


@cache
def warm_python() -> Path:
    """The program; the process behind it ends with the tests."""
    folder = Path(tempfile.mkdtemp(prefix="warm"))
    address, program = folder / "socket", folder / "python"
    environment = (
        os.environ
        | {f"{name}_NUM_THREADS": "1" for name in ("OMP", "MKL", "OPENBLAS", "NUMBA")}
        | {"POLARS_MAX_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    )
    process = subprocess.Popen([sys.executable, __file__, str(address)], env=environment, stdout=subprocess.PIPE)
    assert process.stdout.readline(), "the process for jobs has not started"
    program.write_text(CLIENT.format(python=sys.executable, address=str(address)))
    program.chmod(0o755)

    def end() -> None:
        process.terminate()
        process.wait()

    atexit.register(end)
    return program


def import_everything() -> None:
    """What jobs import of other projects, as this project's modules do it."""
    for name in (
        "altair",
        "numba",
        "scipy.optimize",
        "scipy.stats",
        "snakemake.script",
        "torch",
        "transformer_lens.factories.architecture_adapter_factory",
        "transformer_lens.model_bridge",
        "transformers",
        "vl_convert",
    ):
        importlib.import_module(name)
    # Threads do not survive a fork: jemalloc starts its own anew, Polars, which is no large library, would not.
    threads = {Path(f"/proc/self/task/{task}/comm").read_text().strip() for task in os.listdir("/proc/self/task")}
    assert {name for name in threads if not name.startswith(("python", "jemalloc"))} == set(), threads


def be_the_job(request: dict, streams: list[int], client: socket.socket) -> NoReturn:
    """Run the script; called in a fork."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    for number in (signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["directory"])
    sys.argv = request["arguments"]
    sys.path[0] = str(Path(sys.argv[0]).parent)
    client.send(str(os.getpid()).encode())
    status = 1
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
        status = 0
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        else:
            status = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    client.send(str(status).encode())
    os._exit(status)


def serve(address: str) -> NoReturn:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    server.bind(address)
    server.listen(64)
    print("ready", flush=True)
    children: set[int] = set()
    while True:
        client, _ = server.accept()
        message, streams, _, _ = socket.recv_fds(client, LARGEST, 3)
        child = os.fork()
        if child == 0:
            server.close()
            be_the_job(json.loads(message), streams, client)
        client.close()
        for stream in streams:
            os.close(stream)
        children.add(child)
        children -= {pid for pid in children if os.waitpid(pid, os.WNOHANG)[0]}


if __name__ == "__main__":
    import_everything()
    serve(sys.argv[1])
