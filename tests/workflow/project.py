"""A user's working directory with a tiny model, a text and a configuration, and the workflow run in it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from warm_jobs import warm_python
from warm_snakemake import warm_snakemake

ROOT = Path(__file__).resolve().parents[2]
CODE = ("Snakefile", "rules", "workflow_scripts", "config", "envs", "profiles")
WORDS = ("the", "and", "harbour", "in", "an", "old", "morning", "walking", "she", "then", "hen", "sand", "tin", "at")


def make_text(path: Path, *, documents: int = 12, words: int = 60, seed: int = 0) -> Path:
    """A text of seeded random words, its documents set apart by blank lines."""
    rng = np.random.default_rng(seed)
    path.write_text("\n\n".join(" ".join(rng.choice(WORDS, words)) for _ in range(documents)) + "\n")
    return path


def make_facts(path: Path) -> Path:
    """Facts about five people in two relations; both relations have several objects."""
    people = ("she", "hen", "the old hen", "an old man", "walking harbour")
    things = {
        "is in": ("sand", "tin", "harbour", "morning", "sand"),
        "was at": ("then", "tin", "an old morning", "in", "hen"),
    }
    rows = [
        f"{who},{relation},{what}" for relation in things for who, what in zip(people, things[relation], strict=True)
    ]
    path.write_text("\n".join(["subject,relation,object", *rows]) + "\n")
    return path


def small_config(model: Path) -> dict:
    """Studies A, B and C of one tiny directory model, compared with itself, on one small text; everything cheap.

    The text is `words.txt` in the working directory, the facts are `facts.csv`.
    """
    return {
        "models": {
            "tiny": {"source": "directory", "path": str(model), "null_space_k": [4]},
            "twin": {"source": "directory", "path": str(model), "null_space_k": [4]},
        },
        "texts": {"words": {"source": "file", "path": "words.txt", "sequence_length": 32, "sequences": 8}},
        "facts": {"people": {"source": "file", "path": "facts.csv", "text": "words"}},
        "context_copying": {
            "models": ["tiny"],
            "facts": ["people"],
            "filters": [],  # a model of random weights says whatever it says
            "controls": {"uniform": 4, "norm_matched": 3, "synthetic": 2, "neighbours": 6},
            "induction_driven": 2,
            "replacements": ["mean", "zero", "mean+3sd"],
            "dose_response": {"points": 3, "controls": 1},
            "new_tokens": 3,
            "verification": {"pairs": 12},
        },
        "stages_of_inference": {
            "models": ["tiny", "twin"],
            "texts": ["words"],
            "sequences": 4,
            "vocab_kurt_min": 3,
            "subjoiners": {"pieces": [2, 3], "words": 12, "context": 6, "examples": 2},
            "features": {"min_tokens": 2, "top": 3},
            "probes": {"features": ["leading_space"], "sizes": [1, 2], "draws": 2, "tokens": 200},
        },
        "confidence_regulation": {"models": ["tiny"], "texts": ["words"], "references": {"tiny": "twin"}},
        "selections": {"entropy": {"rule": "top_rho", "count": 3}},
        "controls": {"sets": 2, "synthetic_draws": 2},
        "ablation": {"resamples": 100, "verification": {"pairs": 16, "forward_pairs": 4}},
        "token_frequency": {"candidates": 8, "directions": 19, "tokens": 64},
        "sets": {"verification_pairs": 8},
        "dose_response": {"points": 3, "tokens": 64},
        "induction": {
            "synthetic": {"length": 10, "sequences": 6},
            "natural": {"prefix": 2, "sequences": 6},
            "heads": {"length": 8, "sequences": 4, "top": 2, "ablated_sequences": 4, "verification_positions": 2},
        },
        "comparisons": {"both": {"models": ["tiny", "twin"], "text": "words", "sequences": 4}},
        "figures": {"formats": ["svg"]},
    }


@dataclass
class Project:
    """A working directory; `code` is where the workflow's own files lie."""

    directory: Path
    code: Path = ROOT

    @property
    def config_path(self) -> Path:
        return self.directory / "config.yaml"

    def configure(self, config: dict) -> None:
        self.config_path.write_text(yaml.safe_dump(config))

    def config(self) -> dict:
        return yaml.safe_load(self.config_path.read_text())

    def command(self, *arguments: str, default_config: bool = False) -> list[str]:
        configured = [] if default_config else ["--configfile", str(self.config_path)]
        snakemake = [sys.executable, "-m", "snakemake", "--snakefile", str(self.code / "Snakefile")]
        # Targets first: --configfile would take them for further files.
        return [*snakemake, *arguments, "--directory", str(self.directory), "--cores", "2", *configured]

    def environment(self) -> dict[str, str]:
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        # Jobs import the library beside their scripts, as a user's do, and not that of the tests.
        inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        return inherited | threads | {"HF_HUB_OFFLINE": "1", "NO_COLOR": "1"}

    def run(
        self, *arguments: str, default_config: bool = False, ok: bool = True, warm: bool = False, cold: bool = False
    ) -> str:
        """Run Snakemake; return its output. `ok` says whether it should succeed.

        Snakemake is a fork of a process that has everything imported, and jobs are processes of their own.

        Args:
            warm: jobs are forks as well, of a process that has the large libraries imported.
            cold: a process of its own, as a user's.
        """
        command = self.command(*arguments, default_config=default_config)
        if cold:
            done = subprocess.run(
                command,
                cwd=self.directory,
                env=self.environment(),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=600,
                check=False,
            )
            status, output = done.returncode, done.stdout
        else:
            status, output = warm_snakemake(self.code).run(
                command[3:],
                directory=self.directory,
                environment=self.environment(),
                python=warm_python() if warm else None,
            )
        assert (status == 0) == ok, f"exit {status}:\n{output[-6000:]}"
        return output

    def planned(self, *arguments: str) -> dict[str, int]:
        """How many jobs of every rule a dry run announces; empty when there is nothing to do."""
        output = self.run("--dry-run", *arguments)
        if "Nothing to be done" in output:
            return {}
        table = output.split("Job stats:", 1)[1]
        counts = dict(re.findall(r"^(\w+) +(\d+)$", table.split("\ntotal ", 1)[0], re.MULTILINE))
        return {rule: int(count) for rule, count in counts.items() if rule not in ("job", "all")}


def copy_code(target: Path) -> Path:
    """A scratch copy of the workflow, to be edited."""
    target.mkdir(parents=True)
    for name in CODE:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, target / name)
    return target
