"""Models and training checkpoints side by side.

Needs: the models' files and a text; for `emergence`, the selections of one of the models.
Makes: results/{model}/texts/{text}/survey/*.parquet and results/comparison/{comparison}/.
"""

SURVEY = f"{TEXT}/survey/{{comparison}}"
COMPARISON = "results/comparison/{comparison}"


rule survey_model:
    """Last layer, entropy, loss and induction of one model or checkpoint, on a sample of the text."""
    input:
        model=model_files,
        documents=text_documents,
        counts=count_source,
    output:
        neurons=f"{SURVEY}/neurons.parquet",
        summary=f"{SURVEY}/summary.parquet",
        spectrum=f"{SURVEY}/spectrum.parquet",
    log:
        "results/logs/{model}/texts/{text}/survey/{comparison}.log",
    benchmark:
        "results/benchmarks/{model}/texts/{text}/survey/{comparison}.tsv"
    conda:
        "../envs/environment.yaml"
    threads: COMPUTE["threads"]
    resources:
        mem_mb=memory("ablation"),
        runtime=minutes("ablation"),
        gpu=gpu("gpus"),
        gres=gpu("gres"),
    params:
        code=library("survey_model"),
        model=model_spec,
        text=text_spec,
        null_space_k=null_space_k,
        include_padded=config["weights"]["include_padded"],
        sequences=lambda wildcards: comparison_entry(wildcards)["sequences"],
        heads_length=config["induction"]["heads"]["length"],
        heads_sequences=config["induction"]["heads"]["sequences"],
        kernel=COMPUTE["kernel"],
        batch_size=COMPUTE["batch_size"],
        tokens_per_chunk=COMPUTE["tokens_per_chunk"],
        neurons_per_tile=COMPUTE["neurons_per_tile"],
        te_floor=ABLATE["te_floor"],
        seed=config["seed"],
        resamples=ABLATE["resamples"],
        level=ABLATE["level"],
    script:
        "../workflow_scripts/survey_model.py"


rule compare_models:
    """The surveys of a comparison in one place."""
    input:
        neurons=surveys("neurons"),
        summary=surveys("summary"),
        spectrum=surveys("spectrum"),
    output:
        neurons=f"{COMPARISON}/neurons.parquet",
        summary=f"{COMPARISON}/summary.parquet",
        spectra=f"{COMPARISON}/spectra.parquet",
    log:
        "results/logs/comparison/{comparison}/compare_models.log",
    benchmark:
        "results/benchmarks/comparison/{comparison}/compare_models.tsv"
    conda:
        "../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=small(4000),
        runtime=small(30),
        gpu=0,
    params:
        code=library("compare_models"),
        models=lambda wildcards: comparison_entry(wildcards)["models"],
    script:
        "../workflow_scripts/compare_models.py"


rule draw_emergence:
    """What emerges along training."""
    input:
        neurons=f"{COMPARISON}/neurons.parquet",
        summary=f"{COMPARISON}/summary.parquet",
        selections=reference_selections,
    output:
        figures=in_report(f"{COMPARISON}/figures/emergence", "emergence"),
    log:
        "results/logs/comparison/{comparison}/draw_emergence.log",
    benchmark:
        "results/benchmarks/comparison/{comparison}/draw_emergence.tsv"
    conda:
        "../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=small(4000),
        runtime=small(30),
        gpu=0,
    params:
        code=library("draw_emergence"),
        text=lambda wildcards: comparison_entry(wildcards)["text"],
        reference=comparison_reference,
        level=ABLATE["level"],
    script:
        "../workflow_scripts/draw_emergence.py"


rule draw_models:
    """Models side by side: shares of both kinds of neurons, loss, induction."""
    input:
        neurons=f"{COMPARISON}/neurons.parquet",
        summary=f"{COMPARISON}/summary.parquet",
    output:
        figures=in_report(f"{COMPARISON}/figures/models", "models"),
    log:
        "results/logs/comparison/{comparison}/draw_models.log",
    benchmark:
        "results/benchmarks/comparison/{comparison}/draw_models.tsv"
    conda:
        "../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=small(4000),
        runtime=small(30),
        gpu=0,
    params:
        code=library("draw_models"),
        text=lambda wildcards: comparison_entry(wildcards)["text"],
        level=ABLATE["level"],
    script:
        "../workflow_scripts/draw_models.py"


rule draw_spectra:
    """Singular values of W_U side by side."""
    input:
        spectra=f"{COMPARISON}/spectra.parquet",
    output:
        figures=in_report(f"{COMPARISON}/figures/spectra", "spectra"),
    log:
        "results/logs/comparison/{comparison}/draw_spectra.log",
    benchmark:
        "results/benchmarks/comparison/{comparison}/draw_spectra.tsv"
    conda:
        "../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=small(4000),
        runtime=small(30),
        gpu=0,
    params:
        code=library("draw_spectra"),
    script:
        "../workflow_scripts/draw_spectra.py"
