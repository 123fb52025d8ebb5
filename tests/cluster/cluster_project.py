"""Studies A and B of the demo in small, run through `--profile slurm` from the project's root, or on this machine."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from one_node_slurm import GPUS
from project import ROOT, Project

TEXT = "results/demo/texts/evaluation"
KNOWLEDGE = "results/demo/facts/demo/knowledge"
PARTITIONS = ROOT / "profiles/slurm/partitions.yaml"
TARGETS = (
    f"{TEXT}/ablation/effects.parquet",
    f"{TEXT}/figures/verification.svg",
    f"{KNOWLEDGE}/scores.parquet",
    f"{KNOWLEDGE}/decoding_verification.parquet",
)
SHARDS = 3
# Every rule of a run from nothing, by where the profile runs it.
GPU_JOBS = {
    "measure_neurons": 1,
    "measure_activations": 1,
    "ablate_neurons": SHARDS,
    "verify_ablation": 1,
    "answer_queries": 1,
    "make_conflicts": 1,
    "decode_conflicts": SHARDS,
    "verify_decoding": 1,
}
OTHER_JOBS = {"tokenize_text": 1, "count_tokens": 1, "summarize_effects": 1, "score_copying": 1}
LOCAL_JOBS = {
    "make_demo_world": 1,
    "draw_verification": 1,
    "read_facts": 1,
    "filter_answers": 1,
    "select_neurons": 1,
    "select_copying_sets": 1,
}
# The profile waits as suits a busy cluster; here a job takes seconds.
SNAKEMAKE = Path(__file__).parent / "quick_snakemake.py"
QUICK = ("--slurm-init-seconds-before-status-checks", "1", "--latency-wait", "10")


def study(**compute: object) -> dict:
    """Ablation of the shipped demo model on a little text and a few conflict prompts, in several shards.

    Every model job is on one GPU.
    """
    return {
        "models": {"demo": {"source": "demo", "null_space_k": [6]}},
        "texts": {
            "evaluation": {
                "source": "demo",
                "split": "evaluation_b",
                "sequence_length": 48,
                "sequences": 16,
                "counts": "demo",
            }
        },
        "confidence_regulation": {"models": ["demo"], "texts": ["evaluation"]},
        "facts": {"demo": {"source": "demo"}},
        "context_copying": {
            "models": ["demo"],
            "facts": ["demo"],
            "selections": ["entropy"],
            "controls": {"uniform": 4, "norm_matched": 3, "synthetic": 2, "neighbours": 6},
            "induction_driven": None,
            "replacements": ["mean"],
            "dose_response": {"points": 0},
            "max_prompts": 30,
            "new_tokens": 3,
            "shards": SHARDS,
            "verification": {"pairs": 8},
        },
        "selections": {"entropy": {"rule": "rho_then_logit_var", "rho_min": 0.8, "count": 6}},
        "ablation": {
            "replacements": ["mean"],
            "resamples": 100,
            "verification": {"pairs": 16, "forward_pairs": 4},
        },
        "figures": {"formats": ["svg"]},
        # GPUs are asked for whatever device a job finds: here it is the CPU.
        "compute": {
            "device": "cpu",
            "kernel": "torch",  # nothing to compile in every job
            "shards": SHARDS,
            "gpus_per_job": 1,
            "batch_size": 4,
            "memory_mb": 2500,
            "runtime_minutes": 20,
        }
        | compute,
    }


@dataclass
class ClusterProject(Project):
    """A working directory for runs on a cluster; `variables` are set in the environment of its runs."""

    variables: dict[str, str] = field(default_factory=dict)

    def environment(self) -> dict[str, str]:
        return super().environment() | self.variables

    def slurm_command(self, *arguments: str) -> list[str]:
        """What a user types in the project's root, with a configuration and a directory of their own."""
        typed = [sys.executable, str(SNAKEMAKE), *arguments, "--profile", "slurm", *QUICK]
        return [*typed, "--directory", str(self.directory), "--configfile", str(self.config_path)]

    @property
    def log(self) -> Path:
        return self.directory / "snakemake.log"

    def start(self, *arguments: str) -> subprocess.Popen:
        """Start a run through the profile, by default to the end; its output goes to `log`."""
        with self.log.open("w") as sink:
            return subprocess.Popen(
                self.slurm_command(*(arguments or TARGETS)),
                cwd=ROOT,
                env=self.environment(),
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @contextmanager
    def started(self, *arguments: str):
        """A run in the background that does not outlive the block."""
        run = self.start(*arguments)
        try:
            yield run
        finally:
            if run.poll() is None:
                run.send_signal(signal.SIGINT)
                try:
                    run.wait(60)
                except subprocess.TimeoutExpired:
                    run.kill()
                    run.wait()

    def finish(self, run: subprocess.Popen, seconds: float = 900) -> str:
        """Wait for a run that has to succeed; return its output."""
        code = run.wait(seconds)
        assert code == 0, f"exit {code}:\n{self.log.read_text()[-6000:]}"
        return self.log.read_text()

    def run_on_slurm(self, *arguments: str) -> str:
        with self.started(*arguments) as run:
            return self.finish(run)

    def run_locally(self) -> None:
        self.run(*TARGETS, "--resources", f"gpu={GPUS}", warm=True)

    def run_name(self) -> str:
        """The name that the plugin gave to the jobs of the last run."""
        return re.search(r"SLURM run ID: (\S+)", self.log.read_text())[1]

    def results(self) -> dict[str, bytes]:
        """Content of all tables and figures by path; no logs and benchmarks, which hold times."""
        root = self.directory / "results"
        kept = [path for path in root.rglob("*") if path.suffix in (".parquet", ".svg") and path.name[0] != "."]
        return {path.relative_to(root).as_posix(): path.read_bytes() for path in kept}

    def times(self) -> dict[str, int]:
        """When each table and figure was last written."""
        root = self.directory / "results"
        return {name: (root / name).stat().st_mtime_ns for name in self.results()}

    def take_over(self, other: Project) -> None:
        """Start from another project's finished texts and tokens, so that only the model jobs are left to do."""
        shutil.copytree(other.directory / "results/inputs", self.directory / "results/inputs")
        shutil.copytree(other.directory / ".snakemake/metadata", self.directory / ".snakemake/metadata")
        for name in ("tokens.parquet", "token_counts.parquet"):
            target = self.directory / TEXT / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(other.directory / TEXT / name, target)


def make_project(directory: Path, **compute: object) -> ClusterProject:
    project = ClusterProject(directory)
    project.configure(study(**compute))
    return project
