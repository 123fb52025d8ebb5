"""Figures of sets of neurons: token frequency, single tokens, doses, temperature, calibration.

Needs: tables only; no job here loads a model, and no figure imports torch.
Makes: results/{model}/texts/{text}/figures/.
"""


rule draw_unigram_kl:
    """Divergence from the unigram distribution against entropy, per token."""
    input:
        baseline=f"{TEXT}/baseline.parquet",
    output:
        figures=in_report(f"{TEXT}/figures/unigram_kl", "unigram_kl"),
    log:
        "results/logs/{model}/texts/{text}/draw_unigram_kl.log",
    benchmark:
        "results/benchmarks/{model}/texts/{text}/draw_unigram_kl.tsv"
    conda:
        "../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=small(4000),
        runtime=small(30),
        gpu=0,
    params:
        code=library("draw_unigram_kl"),
        resamples=ABLATE["resamples"],
        level=ABLATE["level"],
        seed=config["seed"],
    script:
        "../workflow_scripts/draw_unigram_kl.py"


rule draw_token_frequency:
    """Token-frequency neurons: what freezing the unigram projection takes away."""
    input:
        token_frequency=f"{ABLATION}/token_frequency.parquet",
        traces=f"{ABLATION}/traces.parquet",
        selection=selections,
        verification=f"{ABLATION}/verification.parquet",
    output:
        figures=in_report(f"{TEXT}/figures/token_frequency", "token_frequency"),
    log:
        "results/logs/{model}/texts/{text}/draw_token_frequency.log",
    benchmark:
        "results/benchmarks/{model}/texts/{text}/draw_token_frequency.tsv"
    conda:
        "../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=memory("traces"),
        runtime=minutes("traces"),
        gpu=0,
    params:
        code=library("draw_token_frequency"),
        level=ABLATE["level"],
    script:
        "../workflow_scripts/draw_token_frequency.py"


rule draw_token_effects:
    """Effects of single neurons, token by token."""
    input:
        traces=f"{ABLATION}/traces.parquet",
        selection=selections,
        verification=f"{ABLATION}/verification.parquet",
    output:
        figures=in_report(f"{TEXT}/figures/token_effects", "token_effects"),
    log:
        "results/logs/{model}/texts/{text}/draw_token_effects.log",
    benchmark:
        "results/benchmarks/{model}/texts/{text}/draw_token_effects.tsv"
    conda:
        "../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=memory("traces"),
        runtime=minutes("traces"),
        gpu=0,
    params:
        code=library("draw_token_effects"),
        replacement=SHOWN,
        seed=config["seed"],
    script:
        "../workflow_scripts/draw_token_effects.py"


rule draw_example_passage:
    """A passage on which a neuron matters: activation, change of loss, rank."""
    input:
        traces=f"{ABLATION}/traces.parquet",
        tokens=f"{TEXT}/tokens.parquet",
        strings=f"{TEXT}/token_strings.parquet",
        selection=selections,
        verification=f"{ABLATION}/verification.parquet",
    output:
        figures=in_report(f"{TEXT}/figures/example_passage", "example_passage"),
    log:
        "results/logs/{model}/texts/{text}/draw_example_passage.log",
    benchmark:
        "results/benchmarks/{model}/texts/{text}/draw_example_passage.tsv"
    conda:
        "../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=memory("traces"),
        runtime=minutes("traces"),
        gpu=0,
    params:
        code=library("draw_example_passage"),
        replacement=SHOWN,
    script:
        "../workflow_scripts/draw_example_passage.py"


rule draw_dose_response:
    """Curves of entropy, loss, scale and rank against a clamped activation."""
    input:
        dose_response=f"{ABLATION}/dose_response.parquet",
        statistics=f"{TEXT}/activation_statistics.parquet",
        selection=selections,
    output:
        figures=in_report(f"{TEXT}/figures/dose_response", "dose_response"),
    log:
        "results/logs/{model}/texts/{text}/draw_dose_response.log",
    benchmark:
        "results/benchmarks/{model}/texts/{text}/draw_dose_response.tsv"
    conda:
        "../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=small(4000),
        runtime=small(30),
        gpu=0,
    params:
        code=library("draw_dose_response"),
        level=ABLATE["level"],
    script:
        "../workflow_scripts/draw_dose_response.py"


rule draw_temperature:
    """How much of a joint ablation one temperature explains."""
    input:
        temperature=f"{ABLATION}/temperature.parquet",
        verification=f"{ABLATION}/set_verification.parquet",
    output:
        figures=in_report(f"{TEXT}/figures/temperature", "temperature"),
    log:
        "results/logs/{model}/texts/{text}/draw_temperature.log",
    benchmark:
        "results/benchmarks/{model}/texts/{text}/draw_temperature.tsv"
    conda:
        "../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=small(4000),
        runtime=small(30),
        gpu=0,
    params:
        code=library("draw_temperature"),
        level=ABLATE["level"],
    script:
        "../workflow_scripts/draw_temperature.py"


rule draw_calibration:
    """Reliability and calibration error before and after joint ablation."""
    input:
        calibration=f"{ABLATION}/calibration.parquet",
        reliability=f"{ABLATION}/reliability.parquet",
        verification=f"{ABLATION}/set_verification.parquet",
    output:
        figures=in_report(f"{TEXT}/figures/calibration", "calibration"),
    log:
        "results/logs/{model}/texts/{text}/draw_calibration.log",
    benchmark:
        "results/benchmarks/{model}/texts/{text}/draw_calibration.tsv"
    conda:
        "../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=small(4000),
        runtime=small(30),
        gpu=0,
    params:
        code=library("draw_calibration"),
        level=ABLATE["level"],
    script:
        "../workflow_scripts/draw_calibration.py"


rule draw_reference_kl:
    """Divergence from other distributions before and after ablation."""
    input:
        reference_kl=f"{ABLATION}/reference_kl.parquet",
    output:
        figures=in_report(f"{TEXT}/figures/reference_kl", "reference_kl"),
    log:
        "results/logs/{model}/texts/{text}/draw_reference_kl.log",
    benchmark:
        "results/benchmarks/{model}/texts/{text}/draw_reference_kl.tsv"
    conda:
        "../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=small(4000),
        runtime=small(30),
        gpu=0,
    params:
        code=library("draw_reference_kl"),
        level=ABLATE["level"],
    script:
        "../workflow_scripts/draw_reference_kl.py"
