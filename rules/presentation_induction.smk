"""Figures of induction: neurons and heads on repeated tokens.

Needs: tables only; no job here loads a model, and no figure imports torch.
Makes: results/{model}/texts/{text}/figures/.
"""


rule draw_induction_profile:
    """Activation, entropy and loss along the repetition."""
    input:
        profile=f"{INDUCTION}/{{kind}}/profile.parquet",
        selection=selections,
    output:
        figures=in_report(
            f"{TEXT}/figures/induction_profile_{{kind}}", "induction_profile"
        ),
    log:
        "results/logs/{model}/texts/{text}/draw_induction_profile_{kind}.log",
    benchmark:
        "results/benchmarks/{model}/texts/{text}/draw_induction_profile_{kind}.tsv"
    conda:
        "../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=small(4000),
        runtime=small(30),
        gpu=0,
    params:
        code=library("draw_induction_profile"),
        level=ABLATE["level"],
    script:
        "../workflow_scripts/draw_induction_profile.py"


rule draw_induction_ablation:
    """Entropy and loss along the repetition with neurons ablated."""
    input:
        ablation=f"{INDUCTION}/{{kind}}/ablation.parquet",
        tests=f"{INDUCTION}/{{kind}}/tests.parquet",
        selection=selections,
        verification=f"{ABLATION}/set_verification.parquet",
    output:
        figures=in_report(
            f"{TEXT}/figures/induction_ablation_{{kind}}", "induction_ablation"
        ),
    log:
        "results/logs/{model}/texts/{text}/draw_induction_ablation_{kind}.log",
    benchmark:
        "results/benchmarks/{model}/texts/{text}/draw_induction_ablation_{kind}.tsv"
    conda:
        "../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=small(4000),
        runtime=small(30),
        gpu=0,
    params:
        code=library("draw_induction_ablation"),
        level=ABLATE["level"],
    script:
        "../workflow_scripts/draw_induction_ablation.py"


rule draw_induction_scores:
    """Scores of all last-layer neurons, synthetic against natural repetition."""
    input:
        synthetic=f"{INDUCTION}/synthetic/scores.parquet",
        natural=f"{INDUCTION}/natural/scores.parquet",
        selection=selections,
    output:
        figures=in_report(f"{TEXT}/figures/induction_scores", "induction_scores"),
    log:
        "results/logs/{model}/texts/{text}/draw_induction_scores.log",
    benchmark:
        "results/benchmarks/{model}/texts/{text}/draw_induction_scores.tsv"
    conda:
        "../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=small(4000),
        runtime=small(30),
        gpu=0,
    params:
        code=library("draw_induction_scores"),
        level=ABLATE["level"],
    script:
        "../workflow_scripts/draw_induction_scores.py"


rule draw_induction_heads:
    """Induction scores of all heads."""
    input:
        heads=f"{INDUCTION}/heads.parquet",
    output:
        figures=in_report(f"{TEXT}/figures/induction_heads", "induction_heads"),
    log:
        "results/logs/{model}/texts/{text}/draw_induction_heads.log",
    benchmark:
        "results/benchmarks/{model}/texts/{text}/draw_induction_heads.tsv"
    conda:
        "../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=small(4000),
        runtime=small(30),
        gpu=0,
    params:
        code=library("draw_induction_heads"),
        threshold=INDUCE["heads"]["threshold"],
        level=ABLATE["level"],
    script:
        "../workflow_scripts/draw_induction_heads.py"


rule draw_head_ablation:
    """Neurons, entropy and loss along the repetition with heads ablated."""
    input:
        head_ablation=f"{INDUCTION}/head_ablation.parquet",
        selection=selections,
        verification=f"{INDUCTION}/head_verification.parquet",
    output:
        figures=in_report(f"{TEXT}/figures/head_ablation", "head_ablation"),
    log:
        "results/logs/{model}/texts/{text}/draw_head_ablation.log",
    benchmark:
        "results/benchmarks/{model}/texts/{text}/draw_head_ablation.tsv"
    conda:
        "../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=small(4000),
        runtime=small(30),
        gpu=0,
    params:
        code=library("draw_head_ablation"),
        level=ABLATE["level"],
    script:
        "../workflow_scripts/draw_head_ablation.py"


rule draw_head_neurons:
    """Which heads drive which neurons."""
    input:
        head_neurons=f"{INDUCTION}/head_neurons.parquet",
        selection=selections,
        verification=f"{INDUCTION}/head_verification.parquet",
    output:
        figures=in_report(f"{TEXT}/figures/head_neurons", "head_neurons"),
    log:
        "results/logs/{model}/texts/{text}/draw_head_neurons.log",
    benchmark:
        "results/benchmarks/{model}/texts/{text}/draw_head_neurons.tsv"
    conda:
        "../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=small(4000),
        runtime=small(30),
        gpu=0,
    params:
        code=library("draw_head_neurons"),
        level=ABLATE["level"],
    script:
        "../workflow_scripts/draw_head_neurons.py"
