"""Figures of knowledge conflicts.

Needs: tables only; no job here loads a model, and no figure imports torch.
Makes: results/{model}/facts/{facts}/knowledge/figures/.
"""


rule draw_class_counts:
    """Labels of the conflict prompts under the clean model, and how facts became prompts."""
    input:
        class_counts=f"{KNOWLEDGE}/class_counts.parquet",
        funnel=f"{KNOWLEDGE}/funnel.parquet",
        answers=f"{KNOWLEDGE}/answers.parquet",
    output:
        figures=in_report(f"{KNOWLEDGE}/figures/class_counts", "class_counts"),
    log:
        "results/logs/{model}/facts/{facts}/draw_class_counts.log",
    benchmark:
        "results/benchmarks/{model}/facts/{facts}/draw_class_counts.tsv"
    conda:
        "../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=small(4000),
        runtime=small(30),
        gpu=0,
    params:
        code=library("draw_class_counts"),
        level=ABLATE["level"],
    script:
        "../workflow_scripts/draw_class_counts.py"


rule draw_transition_scores:
    """Share of labels that change, against control sets."""
    input:
        scores=f"{KNOWLEDGE}/scores.parquet",
        control_tests=f"{KNOWLEDGE}/control_tests.parquet",
    output:
        figures=in_report(f"{KNOWLEDGE}/figures/transition_scores", "transition_scores"),
    log:
        "results/logs/{model}/facts/{facts}/draw_transition_scores.log",
    benchmark:
        "results/benchmarks/{model}/facts/{facts}/draw_transition_scores.tsv"
    conda:
        "../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=small(4000),
        runtime=small(30),
        gpu=0,
    params:
        code=library("draw_transition_scores"),
        replacement=COPY["replacements"][0],
        level=ABLATE["level"],
    script:
        "../workflow_scripts/draw_transition_scores.py"


rule draw_conversion_ratios:
    """Conversion ratios of the three labels, against control sets."""
    input:
        scores=f"{KNOWLEDGE}/scores.parquet",
        control_tests=f"{KNOWLEDGE}/control_tests.parquet",
    output:
        figures=in_report(f"{KNOWLEDGE}/figures/conversion_ratios", "conversion_ratios"),
    log:
        "results/logs/{model}/facts/{facts}/draw_conversion_ratios.log",
    benchmark:
        "results/benchmarks/{model}/facts/{facts}/draw_conversion_ratios.tsv"
    conda:
        "../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=small(4000),
        runtime=small(30),
        gpu=0,
    params:
        code=library("draw_conversion_ratios"),
        replacement=COPY["replacements"][0],
        level=ABLATE["level"],
    script:
        "../workflow_scripts/draw_conversion_ratios.py"


rule draw_copying_bars:
    """Prompts that turn to the context, by where they come from and by replacement."""
    input:
        scores=f"{KNOWLEDGE}/scores.parquet",
        control_tests=f"{KNOWLEDGE}/control_tests.parquet",
    output:
        figures=in_report(f"{KNOWLEDGE}/figures/copying_bars", "copying_bars"),
    log:
        "results/logs/{model}/facts/{facts}/draw_copying_bars.log",
    benchmark:
        "results/benchmarks/{model}/facts/{facts}/draw_copying_bars.tsv"
    conda:
        "../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=small(4000),
        runtime=small(30),
        gpu=0,
    params:
        code=library("draw_copying_bars"),
        level=ABLATE["level"],
    script:
        "../workflow_scripts/draw_copying_bars.py"


rule draw_transition_matrix:
    """Transitions between labels, beside those of the controls."""
    input:
        transitions=f"{KNOWLEDGE}/transitions.parquet",
    output:
        figures=in_report(f"{KNOWLEDGE}/figures/transition_matrix", "transition_matrix"),
    log:
        "results/logs/{model}/facts/{facts}/draw_transition_matrix.log",
    benchmark:
        "results/benchmarks/{model}/facts/{facts}/draw_transition_matrix.tsv"
    conda:
        "../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=small(4000),
        runtime=small(30),
        gpu=0,
    params:
        code=library("draw_transition_matrix"),
        replacement=COPY["replacements"][0],
        level=ABLATE["level"],
    script:
        "../workflow_scripts/draw_transition_matrix.py"


rule draw_copying_doses:
    """Labels against the dose that a set is clamped at."""
    input:
        doses=f"{KNOWLEDGE}/doses.parquet",
    output:
        figures=in_report(f"{KNOWLEDGE}/figures/copying_doses", "copying_doses"),
    log:
        "results/logs/{model}/facts/{facts}/draw_copying_doses.log",
    benchmark:
        "results/benchmarks/{model}/facts/{facts}/draw_copying_doses.tsv"
    conda:
        "../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=small(4000),
        runtime=small(30),
        gpu=0,
    params:
        code=library("draw_copying_doses"),
        level=ABLATE["level"],
    script:
        "../workflow_scripts/draw_copying_doses.py"


rule draw_copying_relations:
    """Labels and conversions relation by relation."""
    input:
        relations=f"{KNOWLEDGE}/relations.parquet",
    output:
        figures=in_report(f"{KNOWLEDGE}/figures/copying_relations", "copying_relations"),
    log:
        "results/logs/{model}/facts/{facts}/draw_copying_relations.log",
    benchmark:
        "results/benchmarks/{model}/facts/{facts}/draw_copying_relations.tsv"
    conda:
        "../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=small(4000),
        runtime=small(30),
        gpu=0,
    params:
        code=library("draw_copying_relations"),
        replacement=COPY["replacements"][0],
        level=ABLATE["level"],
    script:
        "../workflow_scripts/draw_copying_relations.py"


rule draw_flips:
    """Does a flip follow the entropy change?"""
    input:
        flips=f"{KNOWLEDGE}/flips.parquet",
        flip_prediction=f"{KNOWLEDGE}/flip_prediction.parquet",
    output:
        figures=in_report(f"{KNOWLEDGE}/figures/flips", "flips"),
    log:
        "results/logs/{model}/facts/{facts}/draw_flips.log",
    benchmark:
        "results/benchmarks/{model}/facts/{facts}/draw_flips.tsv"
    conda:
        "../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=small(4000),
        runtime=small(30),
        gpu=0,
    params:
        code=library("draw_flips"),
        replacement=COPY["replacements"][0],
        level=ABLATE["level"],
    script:
        "../workflow_scripts/draw_flips.py"


rule draw_published_copying:
    """Published scores of study B against ours."""
    input:
        published=f"{KNOWLEDGE}/published.parquet",
    output:
        figures=in_report(f"{KNOWLEDGE}/figures/published_copying", "published_copying"),
    log:
        "results/logs/{model}/facts/{facts}/draw_published_copying.log",
    benchmark:
        "results/benchmarks/{model}/facts/{facts}/draw_published_copying.tsv"
    conda:
        "../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=small(4000),
        runtime=small(30),
        gpu=0,
    params:
        code=library("draw_published_copying"),
        level=ABLATE["level"],
    script:
        "../workflow_scripts/draw_published_copying.py"


rule draw_activation_densities:
    """Activations of selected and of other neurons, with the replacement values."""
    input:
        statistics=copying_statistics,
        sets=f"{KNOWLEDGE}/sets.parquet",
    output:
        figures=in_report(
            f"{KNOWLEDGE}/figures/activation_densities", "activation_densities"
        ),
    log:
        "results/logs/{model}/facts/{facts}/draw_activation_densities.log",
    benchmark:
        "results/benchmarks/{model}/facts/{facts}/draw_activation_densities.tsv"
    conda:
        "../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=small(4000),
        runtime=small(30),
        gpu=0,
    params:
        code=library("draw_activation_densities"),
        replacements=COPY["replacements"],
        seed=config["seed"],
    script:
        "../workflow_scripts/draw_activation_densities.py"


rule draw_decision_boundaries:
    """Log-ratios of the objects before and after, by label."""
    input:
        states=decoded("states"),
        decoded=decoded("decoded"),
        conflicts=f"{KNOWLEDGE}/conflicts.parquet",
        variants=f"{KNOWLEDGE}/variants.parquet",
        verification=f"{KNOWLEDGE}/decoding_verification.parquet",
    output:
        figures=in_report(
            f"{KNOWLEDGE}/figures/decision_boundaries", "decision_boundaries"
        ),
    log:
        "results/logs/{model}/facts/{facts}/draw_decision_boundaries.log",
    benchmark:
        "results/benchmarks/{model}/facts/{facts}/draw_decision_boundaries.tsv"
    conda:
        "../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=small(4000),
        runtime=small(30),
        gpu=0,
    params:
        code=library("draw_decision_boundaries"),
        replacement=COPY["replacements"][0],
    script:
        "../workflow_scripts/draw_decision_boundaries.py"


rule draw_log_ratio_changes:
    """How much the log-ratios change, by label."""
    input:
        states=decoded("states"),
        decoded=decoded("decoded"),
        conflicts=f"{KNOWLEDGE}/conflicts.parquet",
        variants=f"{KNOWLEDGE}/variants.parquet",
        verification=f"{KNOWLEDGE}/decoding_verification.parquet",
    output:
        figures=in_report(f"{KNOWLEDGE}/figures/log_ratio_changes", "log_ratio_changes"),
    log:
        "results/logs/{model}/facts/{facts}/draw_log_ratio_changes.log",
    benchmark:
        "results/benchmarks/{model}/facts/{facts}/draw_log_ratio_changes.tsv"
    conda:
        "../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=small(4000),
        runtime=small(30),
        gpu=0,
    params:
        code=library("draw_log_ratio_changes"),
        replacement=COPY["replacements"][0],
        level=ABLATE["level"],
        resamples=ABLATE["resamples"],
        seed=config["seed"],
    script:
        "../workflow_scripts/draw_log_ratio_changes.py"
