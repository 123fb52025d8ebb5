"""Figures, neuron cards, and their places in the report.

Needs: tables only; no job here loads a model, and no figure imports torch.
Makes: results/{model}/weights/figures/, results/{model}/texts/{text}/figures/ and cards.html. One job per figure
writes all configured formats; the svg goes into the report.
"""

# The figures show the first of the configured replacement values.
SHOWN = ABLATE["replacements"][0]
SELECTION = "results/{model}/weights/selection.parquet"


rule draw_norm_logitvar:
    """Norm against LogitVar of the last layer, selections marked."""
    input:
        neurons="results/{model}/weights/neurons.parquet",
        selection=SELECTION,
    output:
        figures=in_report(
            "results/{model}/weights/figures/norm_logitvar", "norm_logitvar"
        ),
    log:
        "results/logs/{model}/weights/draw_norm_logitvar.log",
    benchmark:
        "results/benchmarks/{model}/weights/draw_norm_logitvar.tsv"
    conda:
        "../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=small(4000),
        runtime=small(30),
        gpu=0,
    params:
        code=library("draw_norm_logitvar"),
    script:
        "../workflow_scripts/draw_norm_logitvar.py"


rule draw_singular_values:
    """Singular values of W_U, its null space, and where the chosen neurons write."""
    input:
        singular_values="results/{model}/weights/singular_values.parquet",
        alignment="results/{model}/weights/alignment.parquet",
        null_space="results/{model}/weights/null_space.parquet",
        selection=SELECTION,
    output:
        figures=in_report(
            "results/{model}/weights/figures/singular_values", "singular_values"
        ),
    log:
        "results/logs/{model}/weights/draw_singular_values.log",
    benchmark:
        "results/benchmarks/{model}/weights/draw_singular_values.tsv"
    conda:
        "../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=small(4000),
        runtime=small(30),
        gpu=0,
    params:
        code=library("draw_singular_values"),
    script:
        "../workflow_scripts/draw_singular_values.py"


rule draw_published:
    """Published measures of the same neurons against ours."""
    input:
        published="results/{model}/weights/published.parquet",
    output:
        figures=in_report("results/{model}/weights/figures/published", "published"),
    log:
        "results/logs/{model}/weights/draw_published.log",
    benchmark:
        "results/benchmarks/{model}/weights/draw_published.tsv"
    conda:
        "../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=small(4000),
        runtime=small(30),
        gpu=0,
    params:
        code=library("draw_published"),
    script:
        "../workflow_scripts/draw_published.py"


rule draw_total_direct:
    """Total against direct effect per token, chosen neurons and pooled controls."""
    input:
        traces=f"{ABLATION}/traces.parquet",
        selection=selections,
        verification=f"{ABLATION}/verification.parquet",
    output:
        figures=in_report(
            "results/{model}/texts/{text}/figures/total_direct", "total_direct"
        ),
    log:
        "results/logs/{model}/texts/{text}/draw_total_direct.log",
    benchmark:
        "results/benchmarks/{model}/texts/{text}/draw_total_direct.tsv"
    conda:
        "../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=memory("traces"),
        runtime=minutes("traces"),
        gpu=0,
    params:
        code=library("draw_total_direct"),
        replacement=SHOWN,
    script:
        "../workflow_scripts/draw_total_direct.py"


rule draw_rho_mediation:
    """rho against 1 - DE/TE of every last-layer neuron."""
    input:
        effects=f"{ABLATION}/effects.parquet",
        null_space="results/{model}/weights/null_space.parquet",
        selection=selections,
        verification=f"{ABLATION}/verification.parquet",
    output:
        figures=in_report(
            "results/{model}/texts/{text}/figures/rho_mediation", "rho_mediation"
        ),
    log:
        "results/logs/{model}/texts/{text}/draw_rho_mediation.log",
    benchmark:
        "results/benchmarks/{model}/texts/{text}/draw_rho_mediation.tsv"
    conda:
        "../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=small(4000),
        runtime=small(30),
        gpu=0,
    params:
        code=library("draw_rho_mediation"),
        replacement=SHOWN,
        level=ABLATE["level"],
    script:
        "../workflow_scripts/draw_rho_mediation.py"


rule draw_entropy_prediction:
    """Change of entropy against change of prediction."""
    input:
        effects=f"{ABLATION}/effects.parquet",
        selection=selections,
        verification=f"{ABLATION}/verification.parquet",
    output:
        figures=in_report(
            "results/{model}/texts/{text}/figures/entropy_prediction",
            "entropy_prediction",
        ),
    log:
        "results/logs/{model}/texts/{text}/draw_entropy_prediction.log",
    benchmark:
        "results/benchmarks/{model}/texts/{text}/draw_entropy_prediction.tsv"
    conda:
        "../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=small(4000),
        runtime=small(30),
        gpu=0,
    params:
        code=library("draw_entropy_prediction"),
        replacement=SHOWN,
    script:
        "../workflow_scripts/draw_entropy_prediction.py"


rule draw_synthetic_controls:
    """Chosen neurons against norm-matched neurons and synthetic directions."""
    input:
        effects=f"{ABLATION}/effects.parquet",
        synthetic=f"{ABLATION}/synthetic.parquet",
        selection=SELECTION,
        verification=f"{ABLATION}/verification.parquet",
    output:
        figures=in_report(
            "results/{model}/texts/{text}/figures/synthetic_controls",
            "synthetic_controls",
        ),
    log:
        "results/logs/{model}/texts/{text}/draw_synthetic_controls.log",
    benchmark:
        "results/benchmarks/{model}/texts/{text}/draw_synthetic_controls.tsv"
    conda:
        "../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=small(4000),
        runtime=small(30),
        gpu=0,
    params:
        code=library("draw_synthetic_controls"),
        replacement=SHOWN,
        level=ABLATE["level"],
    script:
        "../workflow_scripts/draw_synthetic_controls.py"


rule draw_verification:
    """Errors of the closed form against brute force, with the tolerance."""
    input:
        verification=f"{ABLATION}/verification.parquet",
    output:
        figures=in_report(
            "results/{model}/texts/{text}/figures/verification", "verification"
        ),
    log:
        "results/logs/{model}/texts/{text}/draw_verification.log",
    benchmark:
        "results/benchmarks/{model}/texts/{text}/draw_verification.tsv"
    conda:
        "../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=small(4000),
        runtime=small(30),
        gpu=0,
    params:
        code=library("draw_verification"),
    script:
        "../workflow_scripts/draw_verification.py"


rule draw_overview:
    """The main findings in one picture."""
    input:
        neurons="results/{model}/weights/neurons.parquet",
        singular_values="results/{model}/weights/singular_values.parquet",
        alignment="results/{model}/weights/alignment.parquet",
        null_space="results/{model}/weights/null_space.parquet",
        selection=selections,
        traces=f"{ABLATION}/traces.parquet",
        effects=f"{ABLATION}/effects.parquet",
        verification=f"{ABLATION}/verification.parquet",
    output:
        figures=in_report("results/{model}/texts/{text}/figures/overview", "overview"),
    log:
        "results/logs/{model}/texts/{text}/draw_overview.log",
    benchmark:
        "results/benchmarks/{model}/texts/{text}/draw_overview.tsv"
    conda:
        "../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=memory("traces"),
        runtime=minutes("traces"),
        gpu=0,
    params:
        code=library("draw_overview"),
        replacement=SHOWN,
        level=ABLATE["level"],
    script:
        "../workflow_scripts/draw_overview.py"


rule write_cards:
    """A page of cards, one per chosen neuron: measures, tokens, effects, excerpts."""
    input:
        neurons="results/{model}/weights/neurons.parquet",
        null_space="results/{model}/weights/null_space.parquet",
        selection=selections,
        boosted=f"{TEXT}/boosted_tokens.parquet",
        strings=f"{TEXT}/token_strings.parquet",
        tokens=f"{TEXT}/tokens.parquet",
        statistics=f"{TEXT}/activation_statistics.parquet",
        effects=f"{ABLATION}/effects.parquet",
        traces=f"{ABLATION}/traces.parquet",
        frequency_cosine=f"{TEXT}/frequency_cosine.parquet",
        token_frequency=of_part(
            "token_frequency", f"{ABLATION}/token_frequency.parquet"
        ),
        temperature=of_part("sets", f"{ABLATION}/temperature.parquet"),
        dose_response=of_part("dose_response", f"{ABLATION}/dose_response.parquet"),
        synthetic=of_part("induction", f"{INDUCTION}/synthetic/scores.parquet"),
        natural=of_part("induction", f"{INDUCTION}/natural/scores.parquet"),
        head_neurons=of_part("heads", f"{INDUCTION}/head_neurons.parquet"),
        verification=f"{ABLATION}/verification.parquet",
    output:
        cards=report(
            f"{TEXT}/cards.html",
            caption="captions/cards.rst",
            category="Confidence regulation",
            subcategory="{model}",
            labels={"model": "{model}", "text": "{text}", "figure": "neuron cards"},
        ),
    log:
        "results/logs/{model}/texts/{text}/write_cards.log",
    benchmark:
        "results/benchmarks/{model}/texts/{text}/write_cards.tsv"
    conda:
        "../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=memory("traces"),
        runtime=minutes("traces"),
        gpu=0,
    params:
        code=library("write_cards"),
        replacement=SHOWN,
        frequency_outcome=config["token_frequency"]["outcome"],
        seed=config["seed"],
    script:
        "../workflow_scripts/write_cards.py"
