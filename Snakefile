"""Confidence neurons: which neurons of a language model regulate its confidence, and how. See README.md."""

from pathlib import Path

from snakemake.utils import min_version

min_version("9.27")

if (
    not workflow.overwrite_configfiles
):  # otherwise Snakemake would merge the two, and the demo would run along

    configfile: Path(workflow.basedir) / "config" / "config.yaml"


include: "rules/common.smk"
include: "rules/inputs.smk"
include: "rules/neurons.smk"
include: "rules/ablation.smk"
include: "rules/presentation.smk"


report: "rules/captions/workflow.rst"


rule all:
    """Everything that the configuration asks for."""
    default_target: True
    input:
        confidence_regulation_results(),


rule confidence_regulation:
    """Study A: entropy neurons, from the weights to verified effects."""
    input:
        confidence_regulation_results(),
