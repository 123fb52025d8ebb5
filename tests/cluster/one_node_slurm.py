"""A Slurm cluster of one node on this machine, for the time of a test session, from Debian's slurm-wlm and munge.

Two GPUs that do not exist are scheduled in earnest: Slurm only counts them and sets CUDA_VISIBLE_DEVICES. Memory is
enforced once a second. Everything runs as root and in the foreground, so that stopping the processes that were
started here is all there is to clean up.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

MARK = "# Written by the tests of the project (tests/cluster); removed at their end."
SETTINGS = Path("/etc/slurm")
FILES = ("slurm.conf", "gres.conf")
PROGRAMS = ("slurmctld", "slurmd", "munged", "munge", "sbatch", "srun", "squeue", "scontrol", "scancel")
MEMORY_MB, GPUS = 12000, 2

SLURM_CONF = """{mark}
ClusterName=tests
SlurmctldHost=localhost
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=1
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerType=sched/backfill
SlurmdParameters=config_overrides
DefMemPerCPU=500
ReturnToService=2
MinJobAge=900
SlurmctldTimeout=60
SlurmdTimeout=60
KillWait=3
GresTypes=gpu
SlurmctldPort=16817
SlurmdPort=16818
StateSaveLocation={state}/slurmctld
SlurmdSpoolDir={state}/slurmd
SlurmctldPidFile={state}/slurmctld.pid
SlurmdPidFile={state}/slurmd.pid
SlurmctldLogFile={state}/slurmctld.log
SlurmdLogFile={state}/slurmd.log
NodeName=localhost NodeAddr=127.0.0.1 NodeHostname={host} CPUs=8 RealMemory={memory} Gres=gpu:fake:{gpus} State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
PartitionName=cpu Nodes=ALL MaxTime=INFINITE State=UP
PartitionName=gpu Nodes=ALL MaxTime=INFINITE State=UP
"""
GRES_CONF = """{mark}
NodeName=localhost Name=gpu Type=fake File=/dev/null
NodeName=localhost Name=gpu Type=fake File=/dev/zero
"""


def reason_against() -> str | None:
    """Why no cluster can be started here; None if one can."""
    missing = [program for program in PROGRAMS if shutil.which(program, path=search_path()) is None]
    if missing:
        return f"{', '.join(missing)} not found: apt-get install --no-install-recommends slurm-wlm munge"
    if os.geteuid() != 0:
        return "starting a Slurm cluster takes root"
    for name in FILES:
        path = SETTINGS / name
        if path.exists() and not path.read_text().startswith(MARK):
            return f"{path} belongs to another cluster"
    if port_taken(16817):
        return "port 16817 is taken: another test session's cluster may be running"
    return None


def search_path() -> str:
    return os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


def port_taken(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def output_of(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s in vain: {what}"
        time.sleep(0.25)


@dataclass
class Job:
    """A Slurm job as `scontrol show job` shows it; `gpus` are the indices of its devices, once it has some."""

    fields: dict[str, str]

    @property
    def number(self) -> str:
        return self.fields["JobId"]

    @property
    def name(self) -> str:
        """What scancel wants: it knows the members of an array by their place in it alone."""
        member = self.fields.get("ArrayTaskId")
        return f"{self.fields['ArrayJobId']}_{member}" if member else self.number

    @property
    def rule(self) -> str:
        return re.sub(r"^rule_|_wildcards_.*", "", self.fields["Comment"])

    @property
    def state(self) -> str:
        return self.fields["JobState"]

    @property
    def memory_mb(self) -> int:
        amount, unit = re.fullmatch(r"([\d.]+)([MG])", self.fields["MinMemoryNode"]).groups()
        return round(float(amount) * (1024 if unit == "G" else 1))

    @property
    def minutes(self) -> int:
        hours, minutes, _ = self.fields["TimeLimit"].split("-")[-1].split(":")
        return int(hours) * 60 + int(minutes)

    @property
    def gpu_request(self) -> str:
        """Which of sbatch's options asked for GPUs: "gpus", "gres", or "" for none."""
        requests = {"gpus": "TresPerJob", "gres": "TresPerNode"}
        return next((name for name, key in requests.items() if "gpu:1" in self.fields.get(key, "")), "")

    @property
    def gpus(self) -> str | None:
        found = re.search(r"gpu:fake:\d+\(IDX:([\d,-]+)\)", self.fields.get("GRES", ""))
        return found and found[1]

    @property
    def run(self) -> str:
        """The name that the plugin gives to all jobs of one run of Snakemake."""
        return self.fields["JobName"]


def parse_job(line: str) -> Job:
    """One line of `scontrol --oneliner --details show job`."""
    return Job(dict(re.findall(r"(?:^| )([A-Za-z/:]+)=(.*?)(?= [A-Za-z/:]+=|$)", line)))


def list_jobs() -> list[Job]:
    """All jobs that the controller remembers; pending members of an array count as one."""
    shown = output_of("scontrol", "--oneliner", "--details", "show", "job")
    return [parse_job(line) for line in shown.splitlines() if line.startswith("JobId=")]


def running_jobs(rule: str | None = None) -> list[Job]:
    return [job for job in list_jobs() if job.state == "RUNNING" and rule in (None, job.rule)]


@dataclass
class Recorder:
    """What was seen of the jobs while it recorded: their last state, and who ran together with whom."""

    jobs: dict[str, Job] = field(default_factory=dict)
    together: list[list[Job]] = field(default_factory=list)  # GPU jobs that ran at one moment

    def look(self) -> None:
        seen = list_jobs()
        for job in seen:
            earlier = self.jobs.get(job.number)
            if earlier is not None and job.gpus is None:  # a finished job no longer shows its device
                job.fields["GRES"] = earlier.fields.get("GRES", "")
            self.jobs[job.number] = job
        self.together.append([job for job in seen if job.state == "RUNNING" and job.gpus is not None])

    def of_run(self, run: str) -> list[Job]:
        return [job for job in self.jobs.values() if job.run == run]

    @contextmanager
    def recording(self) -> Iterator[Recorder]:
        stop = threading.Event()

        def keep_looking() -> None:
            while not stop.wait(0.5):
                self.look()

        thread = threading.Thread(target=keep_looking)
        thread.start()
        try:
            yield self
        finally:
            stop.set()
            thread.join()
            self.look()


def start(*command: str, log: Path) -> subprocess.Popen:
    with log.open("ab") as sink:
        return subprocess.Popen(command, stdout=sink, stderr=sink, start_new_session=True)


def munge_works() -> bool:
    return subprocess.run(["munge", "-n"], capture_output=True, check=False).returncode == 0


def node_state() -> str:
    done = subprocess.run(["sinfo", "-h", "-o", "%T"], capture_output=True, text=True, check=False)
    return done.stdout.strip()


@contextmanager
def running_cluster(state: Path) -> Iterator[None]:
    """Start the daemons, wait for the node, and stop everything at the end."""
    os.environ["PATH"] = search_path()
    values = {"mark": MARK, "state": state, "host": socket.gethostname(), "memory": MEMORY_MB, "gpus": GPUS}
    for name in ("slurmctld", "slurmd"):
        (state / name).mkdir(parents=True)
    SETTINGS.mkdir(exist_ok=True)
    processes: list[subprocess.Popen] = []
    try:
        for name, text in zip(FILES, (SLURM_CONF, GRES_CONF), strict=True):
            (SETTINGS / name).write_text(text.format(**values))
        if not munge_works():
            subprocess.run(["install", "-d", "-o", "munge", "-g", "munge", "-m", "0755", "/run/munge"], check=True)
            daemon = ("runuser", "-u", "munge", "--", "munged", "--foreground")
            processes.append(start(*daemon, log=state / "munged.out"))
            wait_until(munge_works, "munged to answer", 20)
        processes.append(start("slurmctld", "-D", log=state / "slurmctld.out"))
        wait_until(lambda: port_taken(16817), "slurmctld to listen", 30)
        processes.append(start("slurmd", "-D", "-N", "localhost", log=state / "slurmd.out"))
        wait_until(lambda: node_state() == "idle", "the node to be idle", 60)
        yield
    finally:
        if len(processes) > 1:
            cancel_all()
        for process in reversed(processes):
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for name in FILES:
            (SETTINGS / name).unlink(missing_ok=True)


def cancel_all() -> None:
    """Nothing of the tests stays behind on the node."""
    subprocess.run(["scancel", "--user", "root"], check=False, timeout=60)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and output_of("squeue", "-h").strip():
        time.sleep(0.5)
