"""Size of the workflow's graph, and what Snakemake itself costs, as models and revisions grow.

    python benchmarks/dag_speed.py                        # 1, 5, 20 models, and 20 models at 8 revisions: many minutes
    python benchmarks/dag_speed.py --sizes 1x1 5x1
    python benchmarks/dag_speed.py --sizes 20x8 --steps plan

Every model takes part in all three studies, with the published settings (config/*.yaml) but for its own name. Three
commands are timed:

* plan: a dry run of everything. It parses the workflow, builds the graph, and plans all jobs once;
* run: all jobs, which only make empty files, 100 at a time: building, scheduling, bookkeeping;
* check: a dry run when all is there, which says that there is nothing to do.
"""

# ruff: noqa: E402 (the library is found by its path)

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "workflow_scripts"))

from neuronlab.configuration_extends import extended, merged

STUDIES = ("confidence_regulation", "context_copying", "stages_of_inference")
PLACEHOLDERS = ROOT / "tests" / "workflow" / "placeholders.py"
STEPS = ("plan", "run", "check")
SIZES = ("1x1", "5x1", "20x1", "20x8")


@dataclass(frozen=True)
class Timing:
    """One command: wall-clock seconds, processor seconds of it and its children, and its output."""

    wall: float
    cpu: float
    output: str


def all_studies(models: int, revisions: int) -> dict:
    """The three published settings in one configuration, every one of `models` x `revisions` in all studies."""
    config: dict = {}
    for study in STUDIES:
        path = ROOT / "config" / f"{study}.yaml"
        config = merged(config, extended(yaml.safe_load(path.read_text()), [path.parent]))
    entry = config["models"]["gpt2"]
    config["models"] = {f"model{i:02}": entry for i in range(models)}
    names = [f"model{i:02}" for i in range(models)]
    for revision in range(1, revisions):
        names += [f"model{i:02}@step{1000 * revision}" for i in range(models)]
    for study in STUDIES:
        config[study]["models"] = names
    config["selections"] = {name: one for name, one in config["selections"].items() if "models" not in one}
    config["ablation"].pop("trace", None)
    config["context_copying"] |= {"selections": [], "templates": {}}
    config["confidence_regulation"]["references"] = {}
    return config


def snakemake(directory: Path, *arguments: str, program: tuple[str, ...] = ("-m", "snakemake")) -> Timing:
    """Run Snakemake on the `config.yaml` of a directory, offline.

    Raises:
        RuntimeError: if it fails; with its last lines.
    """
    command = [sys.executable, *program, *arguments, "--snakefile", str(ROOT / "Snakefile"), "--cores", "100"]
    command += ["--directory", str(directory), "--configfile", str(directory / "config.yaml")]
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "NO_COLOR": "1"}
    done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=False)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    output = done.stdout + done.stderr
    if done.returncode:
        raise RuntimeError("\n".join(output.splitlines()[-15:]))
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Timing(wall, cpu, output)


def jobs_of(output: str) -> int:
    """Jobs that a dry run announces."""
    return int(re.search(r"^total +(\d+)$", output, re.MULTILINE)[1])


def fetched_sizes(directory: Path, config: dict) -> None:
    """The config.json that fetched models have: read while the workflow is parsed, once their manifests are there."""
    content = {"hidden_size": 768, "num_hidden_layers": 12, "intermediate_size": 3072, "vocab_size": 50257}
    content |= {"num_attention_heads": 12, "max_position_embeddings": 1024}
    for name in config["confidence_regulation"]["models"]:
        path = directory / "results" / "inputs" / "models" / name / "config.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(content))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=SIZES, metavar="MODELSxREVISIONS")
    parser.add_argument("--steps", nargs="+", default=STEPS, choices=STEPS)
    arguments = parser.parse_args()
    print(f"{'models':>6} {'revisions':>9} {'jobs':>7}  {'step':5} {'wall s':>7} {'CPU s':>7} {'CPU ms/job':>10}")
    for size in arguments.sizes:
        models, revisions = map(int, size.split("x"))
        config = all_studies(models, revisions)
        with tempfile.TemporaryDirectory() as folder:
            directory = Path(folder)
            (directory / "config.yaml").write_text(yaml.safe_dump(config))
            timings = {"plan": snakemake(directory, "--dry-run", "--quiet", "rules")}
            jobs = jobs_of(timings["plan"].output)
            if {"run", "check"} & set(arguments.steps):
                fetched_sizes(directory, config)
                timings["run"] = snakemake(directory, "--quiet", "all", program=(str(PLACEHOLDERS),))
            if "check" in arguments.steps:
                timings["check"] = snakemake(directory, "--dry-run")
                assert "Nothing to be done" in timings["check"].output, timings["check"].output[-2000:]
            for step in arguments.steps:
                wall, cpu = timings[step].wall, timings[step].cpu
                print(
                    f"{models:6} {revisions:9} {jobs:7,}  {step:5} {wall:7.1f} {cpu:7.1f} {1000 * cpu / jobs:10.2f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
