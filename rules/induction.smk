"""Induction: repeated tokens, what neurons and heads do on them, and what ablating them does.

Needs: a model's files, a text's tokens, documents, statistics; the selections.
Makes: results/{model}/texts/{text}/induction/{synthetic,natural}/*.parquet and induction/heads, head_ablation, ... .parquet.
"""

INDUCTION = f"{TEXT}/induction"
INDUCE = config["induction"]


rule make_repeats:
    """Sequences that repeat a stretch of text or of random tokens."""
    input:
        model=model_files,
        tokens=f"{TEXT}/tokens.parquet",
    output:
        repeats=f"{INDUCTION}/synthetic/repeats.parquet",
    log:
        "results/logs/{model}/texts/{text}/induction/make_repeats.log",
    benchmark:
        "results/benchmarks/{model}/texts/{text}/induction/make_repeats.tsv"
    conda:
        "../envs/environment.yaml"
    threads: COMPUTE["threads"]
    resources:
        mem_mb=memory("forward"),
        runtime=minutes("forward"),
        gpu=gpu("gpus"),
        gres=gpu("gres"),
    params:
        code=library("make_repeats"),
        model=model_spec,
        source=INDUCE["synthetic"]["source"],
        length=INDUCE["synthetic"]["length"],
        repetitions=INDUCE["synthetic"]["repetitions"],
        separator=INDUCE["synthetic"]["separator"],
        sequences=INDUCE["synthetic"]["sequences"],
        seed=config["seed"],
    script:
        "../workflow_scripts/make_repeats.py"


rule find_repeats:
    """Stretches that a text repeats by itself."""
    input:
        model=model_files,
        documents=text_documents,
    output:
        repeats=f"{INDUCTION}/natural/repeats.parquet",
    log:
        "results/logs/{model}/texts/{text}/induction/find_repeats.log",
    benchmark:
        "results/benchmarks/{model}/texts/{text}/induction/find_repeats.tsv"
    conda:
        "../envs/environment.yaml"
    threads: COMPUTE["threads"]
    resources:
        mem_mb=memory("forward"),
        runtime=minutes("forward"),
        gpu=gpu("gpus"),
        gres=gpu("gres"),
    params:
        code=library("find_repeats"),
        model=model_spec,
        text=text_spec,
        prefix=INDUCE["natural"]["prefix"],
        min_distance=INDUCE["natural"]["min_distance"],
        after=INDUCE["natural"]["after"],
        sequences=INDUCE["natural"]["sequences"],
        across_documents=INDUCE["natural"]["across_documents"],
        seed=config["seed"],
    script:
        "../workflow_scripts/find_repeats.py"


rule measure_induction:
    """Activations, entropy, loss and norm scale along the repetition; scores of all last-layer neurons."""
    input:
        model=model_files,
        tokens=f"{TEXT}/tokens.parquet",
        counts=f"{TEXT}/token_counts.parquet",
        statistics=f"{TEXT}/activation_statistics.parquet",
        selection=selections,
        repeats=f"{INDUCTION}/{{kind}}/repeats.parquet",
    output:
        profile=f"{INDUCTION}/{{kind}}/profile.parquet",
        scores=f"{INDUCTION}/{{kind}}/scores.parquet",
    log:
        "results/logs/{model}/texts/{text}/induction/{kind}/measure_induction.log",
    benchmark:
        "results/benchmarks/{model}/texts/{text}/induction/{kind}/measure_induction.tsv"
    conda:
        "../envs/environment.yaml"
    threads: COMPUTE["threads"]
    resources:
        mem_mb=memory("forward"),
        runtime=minutes("forward"),
        gpu=gpu("gpus"),
        gres=gpu("gres"),
    params:
        code=library("measure_induction"),
        model=model_spec,
        ablation=ablation_settings,
        score_threshold=INDUCE["score_threshold"],
        resamples=ABLATE["resamples"],
        level=ABLATE["level"],
    script:
        "../workflow_scripts/measure_induction.py"


rule ablate_induction:
    """Clipped mean ablation along the repetition: neurons singly, sets jointly, and their controls."""
    input:
        model=model_files,
        tokens=f"{TEXT}/tokens.parquet",
        counts=f"{TEXT}/token_counts.parquet",
        statistics=f"{TEXT}/activation_statistics.parquet",
        selection=selections,
        repeats=f"{INDUCTION}/{{kind}}/repeats.parquet",
        scores=f"{INDUCTION}/{{kind}}/scores.parquet",
    output:
        ablation=f"{INDUCTION}/{{kind}}/ablation.parquet",
        tests=f"{INDUCTION}/{{kind}}/tests.parquet",
    log:
        "results/logs/{model}/texts/{text}/induction/{kind}/ablate_induction.log",
    benchmark:
        "results/benchmarks/{model}/texts/{text}/induction/{kind}/ablate_induction.tsv"
    conda:
        "../envs/environment.yaml"
    threads: COMPUTE["threads"]
    resources:
        mem_mb=memory("chosen"),
        runtime=minutes("chosen"),
        gpu=gpu("gpus"),
        gres=gpu("gres"),
    params:
        code=library("ablate_induction"),
        model=model_spec,
        ablation=ablation_settings,
        value=INDUCE["value"],
        resamples=ABLATE["resamples"],
        level=ABLATE["level"],
    script:
        "../workflow_scripts/ablate_induction.py"


rule score_heads:
    """Induction scores of all heads, on random tokens and on the repetitions."""
    input:
        model=model_files,
        synthetic=f"{INDUCTION}/synthetic/repeats.parquet",
        natural=f"{INDUCTION}/natural/repeats.parquet",
    output:
        heads=f"{INDUCTION}/heads.parquet",
    log:
        "results/logs/{model}/texts/{text}/induction/score_heads.log",
    benchmark:
        "results/benchmarks/{model}/texts/{text}/induction/score_heads.tsv"
    conda:
        "../envs/environment.yaml"
    threads: COMPUTE["threads"]
    resources:
        mem_mb=memory("scores"),
        runtime=minutes("scores"),
        gpu=gpu("gpus"),
        gres=gpu("gres"),
    params:
        code=library("score_heads"),
        model=model_spec,
        length=INDUCE["heads"]["length"],
        sequences=INDUCE["heads"]["sequences"],
        threshold=INDUCE["heads"]["threshold"],
        batch_size=COMPUTE["batch_size"],
        seed=config["seed"],
        resamples=ABLATE["resamples"],
        level=ABLATE["level"],
    script:
        "../workflow_scripts/score_heads.py"


rule ablate_heads:
    """Heads ablated at one query position, all positions in one pass, with their proof."""
    input:
        model=model_files,
        tokens=f"{TEXT}/tokens.parquet",
        counts=f"{TEXT}/token_counts.parquet",
        statistics=f"{TEXT}/activation_statistics.parquet",
        selection=selections,
        repeats=f"{INDUCTION}/synthetic/repeats.parquet",
        heads=f"{INDUCTION}/heads.parquet",
    output:
        head_ablation=f"{INDUCTION}/head_ablation.parquet",
        head_neurons=f"{INDUCTION}/head_neurons.parquet",
        head_verification=f"{INDUCTION}/head_verification.parquet",
    log:
        "results/logs/{model}/texts/{text}/induction/ablate_heads.log",
    benchmark:
        "results/benchmarks/{model}/texts/{text}/induction/ablate_heads.tsv"
    conda:
        "../envs/environment.yaml"
    threads: COMPUTE["threads"]
    resources:
        mem_mb=memory("heads"),
        runtime=minutes("heads"),
        gpu=gpu("gpus"),
        gres=gpu("gres"),
    params:
        code=library("ablate_heads"),
        model=model_spec,
        ablation=ablation_settings,
        top=INDUCE["heads"]["top"],
        sets=INDUCE["heads"]["sets"],
        baselines=INDUCE["heads"]["baselines"],
        methods=INDUCE["heads"]["methods"],
        verification_positions=INDUCE["heads"]["verification_positions"],
        sequences=INDUCE["heads"]["ablated_sequences"],
        absolute=ABLATE["verification"]["absolute"],
        relative=ABLATE["verification"]["relative"],
        float64_mb=COMPUTE["float64_mb"],
        resamples=ABLATE["resamples"],
        level=ABLATE["level"],
    script:
        "../workflow_scripts/ablate_heads.py"
