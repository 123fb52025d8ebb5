"""What everything starts from: the demo world, fetched models and texts, tokens and token counts.

Needs: nothing but the configuration; the network only in `fetch_model` and `fetch_text`, which run on the
submitting machine and leave a manifest with revision and checksums.
Makes: results/inputs/..., results/{model}/texts/{text}/tokens.parquet and token_counts.parquet,
results/retrained/{seed}/ on request.
"""


localrules:
    fetch_model,
    fetch_text,


rule make_demo_world:
    """Write the demo world's documents, facts and token counts."""
    input:
        counts=str(SCRIPTS / "neuronlab" / "demo" / "checkpoints" / "token_counts.npy"),
    output:
        documents="results/inputs/demo/documents.parquet",
        facts="results/inputs/demo/facts.parquet",
        counts="results/inputs/demo/token_counts.parquet",
    log:
        "results/logs/inputs/make_demo_world.log",
    benchmark:
        "results/benchmarks/inputs/make_demo_world.tsv"
    conda:
        "../envs/environment.yaml"
    threads: COMPUTE["threads"]
    resources:
        mem_mb=small(2000),
        runtime=small(10),
        gpu=0,
    params:
        code=library("make_demo_world"),
    script:
        "../workflow_scripts/make_demo_world.py"


rule train_demo_model:
    """Train the demo model from scratch; the folder can be used as a directory model."""
    output:
        weights="results/retrained/{seed}/final/model.safetensors",
        config="results/retrained/{seed}/final/config.json",
        tokenizer="results/retrained/{seed}/final/tokenizer.json",
        tokenizer_config="results/retrained/{seed}/final/tokenizer_config.json",
        counts="results/retrained/{seed}/token_counts.npy",
    log:
        "results/logs/retrained/{seed}.log",
    benchmark:
        "results/benchmarks/retrained/{seed}.tsv"
    conda:
        "../envs/environment.yaml"
    threads: COMPUTE["threads"]
    resources:
        mem_mb=small(4000),
        runtime=small(240),
        gpu=0,
    params:
        code=library("train_demo_model"),
        steps=config["demo"]["steps"],
        threads=COMPUTE["threads"],
    script:
        "../workflow_scripts/train_demo_model.py"


rule train_demo:
    """Retrain the demo model with every configured seed (the default run uses the shipped one)."""
    input:
        expand(
            "results/retrained/{seed}/final/model.safetensors",
            seed=config["demo"]["seeds"],
        ),


rule fetch_model:
    """Download one model at a pinned revision and check it; model jobs are offline afterwards."""
    output:
        manifest="results/inputs/models/{model}/manifest.json",
    log:
        "results/logs/inputs/fetch_model/{model}.log",
    benchmark:
        "results/benchmarks/inputs/fetch_model/{model}.tsv"
    conda:
        "../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=240,
        gpu=0,
    params:
        code=library("fetch_model"),
        network=True,
        model=model_spec,
    script:
        "../workflow_scripts/fetch_model.py"


rule fetch_text:
    """Download one data set at a pinned revision."""
    output:
        documents="results/inputs/texts/{text}/documents.parquet",
        manifest="results/inputs/texts/{text}/manifest.json",
    log:
        "results/logs/inputs/fetch_text/{text}.log",
    benchmark:
        "results/benchmarks/inputs/fetch_text/{text}.tsv"
    conda:
        "../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=240,
        gpu=0,
    params:
        code=library("fetch_text"),
        network=True,
        text=text_spec,
    script:
        "../workflow_scripts/fetch_text.py"


rule tokenize_text:
    """Cut a text into sequences of tokens; decide, once for all, which positions count."""
    input:
        model=model_files,
        documents=text_documents,
    output:
        tokens="results/{model}/texts/{text}/tokens.parquet",
    log:
        "results/logs/{model}/texts/{text}/tokenize_text.log",
    benchmark:
        "results/benchmarks/{model}/texts/{text}/tokenize_text.tsv"
    conda:
        "../envs/environment.yaml"
    threads: COMPUTE["threads"]
    resources:
        mem_mb=small(2000),
        runtime=small(60),
        gpu=0,
    params:
        code=library("tokenize_text"),
        model=model_spec,
        text=text_spec,
        seed=config["seed"],
    script:
        "../workflow_scripts/tokenize_text.py"


rule count_tokens:
    """Count the tokens of a text, or take over published counts."""
    input:
        model=model_files,
        documents=text_documents,
        counts=count_source,
    output:
        counts="results/{model}/texts/{text}/token_counts.parquet",
    log:
        "results/logs/{model}/texts/{text}/count_tokens.log",
    benchmark:
        "results/benchmarks/{model}/texts/{text}/count_tokens.tsv"
    conda:
        "../envs/environment.yaml"
    threads: COMPUTE["threads"]
    resources:
        mem_mb=small(2000),
        runtime=small(60),
        gpu=0,
    params:
        code=library("count_tokens"),
        model=model_spec,
        text=text_spec,
    script:
        "../workflow_scripts/count_tokens.py"
