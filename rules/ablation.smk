"""Effects of replacing one neuron's activation: statistics, shards, verification, intervals, traces.

Needs: a model's files, tokens.parquet and token_counts.parquet of a text, the weight-based selection.
Makes: results/{model}/texts/{text}/ activation_statistics.parquet, baseline.parquet and ablation/*.parquet.
The shards hold sums for all last-layer neurons, so that no later choice of neurons makes them stale.
"""

TEXT = "results/{model}/texts/{text}"
ABLATE = config["ablation"]
ABLATION = f"{TEXT}/ablation"


rule measure_activations:
    """Activation statistics over the counted positions, and the clean loss, entropy and ranks there."""
    input:
        model=model_files,
        tokens=f"{TEXT}/tokens.parquet",
        counts=f"{TEXT}/token_counts.parquet",
    output:
        statistics=f"{TEXT}/activation_statistics.parquet",
        baseline=f"{TEXT}/baseline.parquet",
    log:
        "results/logs/{model}/texts/{text}/measure_activations.log",
    benchmark:
        "results/benchmarks/{model}/texts/{text}/measure_activations.tsv"
    conda:
        "../envs/environment.yaml"
    threads: COMPUTE["threads"]
    resources:
        mem_mb=memory("forward"),
        runtime=minutes("forward"),
        gpu=gpu("gpus"),
        gres=gpu("gres"),
    params:
        code=library("measure_activations"),
        model=model_spec,
        include_padded=lambda wildcards: config["texts"][wildcards.text][
            "include_padded"
        ],
        layers=ABLATE["statistics_layers"],
        histogram_bins=ABLATE["histogram_bins"],
        batch_size=COMPUTE["batch_size"],
    script:
        "../workflow_scripts/measure_activations.py"


rule ablate_neurons:
    """Sums of the effects of replacing each last-layer neuron, per document, for one shard of sequences."""
    input:
        model=model_files,
        tokens=f"{TEXT}/tokens.parquet",
        counts=f"{TEXT}/token_counts.parquet",
        statistics=f"{TEXT}/activation_statistics.parquet",
    output:
        shard=f"{ABLATION}/shards/{{shard}}.parquet",
    log:
        "results/logs/{model}/texts/{text}/ablate_neurons/{shard}.log",
    benchmark:
        "results/benchmarks/{model}/texts/{text}/ablate_neurons/{shard}.tsv"
    conda:
        "../envs/environment.yaml"
    threads: COMPUTE["threads"]
    resources:
        mem_mb=memory("ablation"),
        runtime=minutes("ablation"),
        gpu=gpu("gpus"),
        gres=gpu("gres"),
    params:
        code=library("ablate_neurons"),
        model=model_spec,
        ablation=ablation_settings,
        shard=lambda wildcards: int(wildcards.shard),
        shards=COMPUTE["shards"],
    script:
        "../workflow_scripts/ablate_neurons.py"


rule verify_ablation:
    """Closed form against brute force on a seeded sample; the run stops above tolerance."""
    input:
        model=model_files,
        tokens=f"{TEXT}/tokens.parquet",
        counts=f"{TEXT}/token_counts.parquet",
        statistics=f"{TEXT}/activation_statistics.parquet",
    output:
        verification=f"{ABLATION}/verification.parquet",
    log:
        "results/logs/{model}/texts/{text}/verify_ablation.log",
    benchmark:
        "results/benchmarks/{model}/texts/{text}/verify_ablation.tsv"
    conda:
        "../envs/environment.yaml"
    threads: COMPUTE["threads"]
    resources:
        mem_mb=memory("float64"),
        runtime=minutes("float64"),
        gpu=gpu("gpus"),
        gres=gpu("gres"),
    params:
        code=library("verify_ablation"),
        model=model_spec,
        ablation=ablation_settings,
        pairs=ABLATE["verification"]["pairs"],
        forward_pairs=ABLATE["verification"]["forward_pairs"],
        absolute=ABLATE["verification"]["absolute"],
        relative=ABLATE["verification"]["relative"],
        float64_mb=COMPUTE["float64_mb"],
    script:
        "../workflow_scripts/verify_ablation.py"


rule summarize_effects:
    """Mean effects per neuron, with intervals from a bootstrap over documents."""
    input:
        shards=expand(
            f"{ABLATION}/shards/{{shard}}.parquet", shard=SHARDS, allow_missing=True
        ),
        verification=f"{ABLATION}/verification.parquet",
    output:
        effects=f"{ABLATION}/effects.parquet",
    log:
        "results/logs/{model}/texts/{text}/summarize_effects.log",
    benchmark:
        "results/benchmarks/{model}/texts/{text}/summarize_effects.tsv"
    conda:
        "../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=memory("tables"),
        runtime=minutes("tables"),
        gpu=0,
    params:
        code=library("summarize_effects"),
        resamples=ABLATE["resamples"],
        level=ABLATE["level"],
        te_floor=ABLATE["te_floor"],
        seed=config["seed"],
    script:
        "../workflow_scripts/summarize_effects.py"


rule ablate_synthetic:
    """Effects of synthetic controls: the same activations written in random directions."""
    input:
        model=model_files,
        tokens=f"{TEXT}/tokens.parquet",
        counts=f"{TEXT}/token_counts.parquet",
        statistics=f"{TEXT}/activation_statistics.parquet",
        selection="results/{model}/weights/selection.parquet",
    output:
        synthetic=f"{ABLATION}/synthetic.parquet",
    log:
        "results/logs/{model}/texts/{text}/ablate_synthetic.log",
    benchmark:
        "results/benchmarks/{model}/texts/{text}/ablate_synthetic.tsv"
    conda:
        "../envs/environment.yaml"
    threads: COMPUTE["threads"]
    resources:
        mem_mb=memory("chosen"),
        runtime=minutes("chosen"),
        gpu=gpu("gpus"),
        gres=gpu("gres"),
    params:
        code=library("ablate_synthetic"),
        model=model_spec,
        ablation=ablation_settings,
        draws=config["controls"]["synthetic_draws"],
        resamples=ABLATE["resamples"],
        level=ABLATE["level"],
        te_floor=ABLATE["te_floor"],
    script:
        "../workflow_scripts/ablate_synthetic.py"


rule select_token_frequency:
    """Token-frequency neurons: chosen by their effects on half of the documents, reported on the other."""
    input:
        model=model_files,
        tokens=f"{TEXT}/tokens.parquet",
        counts=f"{TEXT}/token_counts.parquet",
        statistics=f"{TEXT}/activation_statistics.parquet",
        shards=expand(
            f"{ABLATION}/shards/{{shard}}.parquet", shard=SHARDS, allow_missing=True
        ),
        verification=f"{ABLATION}/verification.parquet",
        frequency_cosine=f"{TEXT}/frequency_cosine.parquet",
        neurons="results/{model}/weights/neurons.parquet",
        weights_selection="results/{model}/weights/selection.parquet",
    output:
        token_frequency=f"{ABLATION}/token_frequency.parquet",
        random_directions=f"{ABLATION}/random_directions.parquet",
        selection=f"{ABLATION}/selection.parquet",
    log:
        "results/logs/{model}/texts/{text}/select_token_frequency.log",
    benchmark:
        "results/benchmarks/{model}/texts/{text}/select_token_frequency.tsv"
    conda:
        "../envs/environment.yaml"
    threads: COMPUTE["threads"]
    resources:
        mem_mb=memory("frequency"),
        runtime=minutes("frequency"),
        gpu=gpu("gpus"),
        gres=gpu("gres"),
    params:
        code=library("select_token_frequency"),
        model=model_spec,
        ablation=ablation_settings,
        outcome=config["token_frequency"]["outcome"],
        candidates=config["token_frequency"]["candidates"],
        directions=config["token_frequency"]["directions"],
        tokens=config["token_frequency"]["tokens"],
        largest=config["token_frequency"]["count"],
        error_rate=config["token_frequency"]["level"],
        control_sets=config["controls"]["sets"],
        te_floor=ABLATE["te_floor"],
        published=published_frequency_neurons,
        resamples=ABLATE["resamples"],
        level=ABLATE["level"],
    script:
        "../workflow_scripts/select_token_frequency.py"


rule trace_neurons:
    """Effects token by token, for the chosen neurons and their controls; of a long text, in a sample of its sequences."""
    input:
        model=model_files,
        tokens=f"{TEXT}/tokens.parquet",
        counts=f"{TEXT}/token_counts.parquet",
        statistics=f"{TEXT}/activation_statistics.parquet",
        selection=selections,
    output:
        traces=f"{ABLATION}/traces.parquet",
    log:
        "results/logs/{model}/texts/{text}/trace_neurons.log",
    benchmark:
        "results/benchmarks/{model}/texts/{text}/trace_neurons.tsv"
    conda:
        "../envs/environment.yaml"
    threads: COMPUTE["threads"]
    resources:
        mem_mb=memory("chosen"),
        runtime=minutes("chosen"),
        gpu=gpu("gpus"),
        gres=gpu("gres"),
    params:
        code=library("trace_neurons"),
        model=model_spec,
        ablation=ablation_settings,
        sets=ABLATE["trace"],
        tokens=ABLATE["traced_tokens"],
    script:
        "../workflow_scripts/trace_neurons.py"
