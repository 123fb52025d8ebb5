"""Confidence neurons: which neurons of a language model regulate its confidence, and how. See README.md."""

from pathlib import Path

from snakemake.utils import min_version

min_version("9.27")

if (
    not workflow.overwrite_configfiles
):  # otherwise Snakemake would merge the two, and the demo would run along

    configfile: Path(workflow.basedir) / "config" / "config.yaml"


include: "rules/common.smk"
include: "rules/common_resources.smk"
include: "rules/targets.smk"
include: "rules/inputs.smk"
include: "rules/neurons.smk"
include: "rules/ablation.smk"
include: "rules/sets.smk"
include: "rules/induction.smk"
include: "rules/presentation.smk"
include: "rules/presentation_sets.smk"
include: "rules/presentation_induction.smk"
include: "rules/comparison.smk"
include: "rules/common_knowledge.smk"
include: "rules/knowledge.smk"
include: "rules/copying.smk"
include: "rules/presentation_weights.smk"
include: "rules/presentation_copying.smk"
include: "rules/common_layers.smk"
include: "rules/layers.smk"
include: "rules/presentation_layers.smk"
include: "rules/presentation_overlays.smk"
include: "rules/preflight.smk"
include: "rules/cluster.smk"


report: "rules/captions/workflow.rst"


onstart:
    # To keep a limit of 100 started jobs per second, which nothing here reaches, Snakemake 9.27 looks for work once more
    # per second for every job that has been started: after hundreds of jobs that takes a core. A limit that somebody
    # set stays.
    limit = getattr(workflow.scheduler, "job_rate_limiter", None)
    if limit is not None and limit.max_jobs >= 100 * limit.timespan:
        workflow.scheduler.job_rate_limiter = None


rule all:
    """Everything that the configuration asks for."""
    default_target: True
    input:
        confidence_regulation_results(),
        context_copying_results(),
        stages_of_inference_results(),
        comparison_results(),


rule confidence_regulation:
    """Study A: entropy and token-frequency neurons, induction, calibration."""
    input:
        confidence_regulation_results(),


rule context_copying:
    """Study B: what ablating neurons does when a prompt contradicts what the model knows."""
    input:
        context_copying_results(),


rule stages_of_inference:
    """Study C: what layers do, by depth."""
    input:
        stages_of_inference_results(),


rule comparison:
    """Models and training checkpoints side by side."""
    input:
        comparison_results(),
