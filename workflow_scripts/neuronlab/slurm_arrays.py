"""Four faults of job arrays in the Slurm plugin of Snakemake (2.8.0), mended from outside.

* It holds back the members of an array while others of the rule are ready, although Snakemake already counts them
  as running: whenever fewer are handed over than are ready (`--jobs`, `--resources`, the limit on submissions per
  second), the run waits for ever.
* It asks for what the first member needs, for all of them: shards of a large model would get the memory of a small
  one, and a second attempt the memory of a first.
* In every member, the first member's job is started, does the member's own work, and then looks for the first
  member's output: a member that is done before the first one fails, and is repeated.
* The members' commands go along as one argument. Where that grows beyond what the kernel takes (some 67 members), or
  where the user wants it so, they go along in a script instead, on lines of their own: every member then does the
  first member's work, and none of its own.

Here whatever is handed over is submitted at once, in arrays of one request each that are short enough for an argument,
and a member runs its own job. Where scripts are wanted (`--slurm-pass-command-as-script`) there are no arrays.
"""

from __future__ import annotations

import base64
import json
import os
import sys
import zlib
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

# Resources that differ between jobs without being asked of Slurm.
OWN = ("_cores", "_nodes", "_job_count", "tmpdir", "disk", "disk_mb", "disk_mib")
TESTED = "2.8.0"  # version of the plugin
ARGUMENT = 100_000  # bytes of an array's commands; Linux takes arguments of 131,072, and the call holds more than them
MEMBERS = "--slurm-jobstep-array-execs"  # the plugin's option with the commands of the later members


def request(job: Any) -> Hashable:
    """What a job asks of Slurm: jobs that ask for the same may stand in one array."""
    asked = {name: str(value) for name, value in job.resources.items() if name not in OWN}
    return job.threads, tuple(sorted(asked.items()))


def by_request(jobs: Sequence[Any]) -> list[list[Any]]:
    """The jobs, grouped by what they ask for, in the order of their first members."""
    groups: dict[Hashable, list[Any]] = {}
    for job in jobs:
        groups.setdefault(request(job), []).append(job)
    return list(groups.values())


def packed_size(command: str) -> int:
    """Bytes that a member's command takes in the plugin's argument: compressed, in hexadecimal digits, in base 64."""
    return len(zlib.compress(command.encode(), level=9)) * 2 * 4 // 3 + 24


def short_arrays(jobs: Sequence[Any], sizes: Sequence[int], members: int, limit: int = ARGUMENT) -> list[list[Any]]:
    """The jobs cut into runs of at most `members`, whose sizes add up to `limit` at most, or of one."""
    runs: list[list[Any]] = []
    room = 0
    for job, size in zip(jobs, sizes, strict=True):
        if not runs or size > room or len(runs[-1]) >= members:
            runs.append([])
            room = limit
        runs[-1].append(job)
        room -= size
    return runs


def mend_arrays(plugin: Any) -> None:
    """Change the plugin's module in place; one without these parts is left alone, loudly. None: it is not in use."""
    if plugin is None:
        return
    executor = getattr(plugin, "Executor", None)
    submit: Callable | None = getattr(executor, "_submit_array_jobs", None)
    if submit is None or not hasattr(executor, "_submit_job") or not hasattr(plugin, "pending_jobs_for_rule"):
        print(
            f"WARNING: job arrays are untested with this version of snakemake-executor-plugin-slurm (tested: {TESTED}) "
            "and may wait for ever or fail; install the tested one, or turn arrays off: --slurm-array-jobs '', or take "
            "the key slurm-array-jobs out of profiles/slurm/config.yaml. Runs without Slurm are not affected",
            file=sys.stderr,
        )
        return
    if hasattr(submit, "mended"):
        return

    def submit_by_request(self: Any, jobs: Sequence[Any]) -> None:
        longest = 1 if self.workflow.executor_settings.pass_command_as_script else self.max_array_size
        for group in by_request(jobs):
            sizes = [packed_size(self.format_job_exec(job)) for job in group]
            for members in short_arrays(group, sizes, longest):
                if len(members) > 1:
                    submit(self, members)
                else:
                    self._submit_job(members[0])

    submit_by_request.mended = True
    executor._submit_array_jobs = submit_by_request
    plugin.pending_jobs_for_rule = lambda dag, rule: 0  # nothing is worth waiting for


def member_command(arguments: Sequence[str], environment: Mapping[str, str]) -> str | None:
    """The shell command of this member of a job array; None for its first member and outside of arrays.

    `arguments` are those of the process that Slurm started, the same for all members.
    """
    for position, argument in enumerate(arguments):
        if argument.partition("=")[0] == MEMBERS:
            payload = argument.partition("=")[2] or "".join(arguments[position + 1 : position + 2])
            commands = json.loads(base64.b64decode(payload.strip("'\"")))
            packed = commands.get(environment.get("SLURM_ARRAY_TASK_ID"))
            return packed and zlib.decompress(bytes.fromhex(packed)).decode()
    return None


def become_member() -> None:
    """In a later member of an array, replace this process by the member's own; do nothing anywhere else."""
    command = member_command(sys.argv, os.environ)
    if command:
        sys.stdout.flush()
        sys.stderr.flush()
        os.execv("/bin/sh", ["sh", "-c", command])
