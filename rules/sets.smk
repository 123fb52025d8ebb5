"""Sets of neurons ablated jointly, neurons clamped to a grid of values, and other models' distributions.

Needs: what the ablation of single neurons needs, and the selections by weights and by effects.
Makes: results/{model}/texts/{text}/ablation/set_effects, temperature, calibration, dose_response, ... .parquet.
"""


rule ablate_sets:
    """Joint ablation of the sets: effects with their proof, temperature, calibration."""
    input:
        model=model_files,
        tokens=f"{TEXT}/tokens.parquet",
        counts=f"{TEXT}/token_counts.parquet",
        statistics=f"{TEXT}/activation_statistics.parquet",
        selection=selections,
    output:
        set_effects=f"{ABLATION}/set_effects.parquet",
        set_verification=f"{ABLATION}/set_verification.parquet",
        temperature=f"{ABLATION}/temperature.parquet",
        calibration=f"{ABLATION}/calibration.parquet",
        reliability=f"{ABLATION}/reliability.parquet",
    log:
        "results/logs/{model}/texts/{text}/ablate_sets.log",
    benchmark:
        "results/benchmarks/{model}/texts/{text}/ablate_sets.tsv"
    conda:
        "../envs/environment.yaml"
    threads: COMPUTE["threads"]
    resources:
        mem_mb=memory("sets"),
        runtime=minutes("sets"),
        gpu=gpu("gpus"),
        gres=gpu("gres"),
    params:
        code=library("ablate_sets"),
        model=model_spec,
        ablation=ablation_settings,
        bins=config["sets"]["bins"],
        tokens=config["sets"]["tokens"],
        verification_pairs=config["sets"]["verification_pairs"],
        absolute=ABLATE["verification"]["absolute"],
        relative=ABLATE["verification"]["relative"],
        float64_mb=COMPUTE["float64_mb"],
        te_floor=ABLATE["te_floor"],
        resamples=ABLATE["resamples"],
        level=ABLATE["level"],
    script:
        "../workflow_scripts/ablate_sets.py"


rule clamp_neurons:
    """Entropy, loss, norm scale and rank with each chosen neuron clamped to a grid of values."""
    input:
        model=model_files,
        tokens=f"{TEXT}/tokens.parquet",
        counts=f"{TEXT}/token_counts.parquet",
        statistics=f"{TEXT}/activation_statistics.parquet",
        selection=selections,
    output:
        dose_response=f"{ABLATION}/dose_response.parquet",
    log:
        "results/logs/{model}/texts/{text}/clamp_neurons.log",
    benchmark:
        "results/benchmarks/{model}/texts/{text}/clamp_neurons.tsv"
    conda:
        "../envs/environment.yaml"
    threads: COMPUTE["threads"]
    resources:
        mem_mb=memory("chosen"),
        runtime=minutes("chosen"),
        gpu=gpu("gpus"),
        gres=gpu("gres"),
    params:
        code=library("clamp_neurons"),
        model=model_spec,
        ablation=ablation_settings,
        values=config["dose_response"]["values"],
        points=config["dose_response"]["points"],
        tokens=config["dose_response"]["tokens"],
        resamples=ABLATE["resamples"],
        level=ABLATE["level"],
    script:
        "../workflow_scripts/clamp_neurons.py"


rule measure_reference_kl:
    """Divergence from a larger model's distribution and from softmax(b_U), before and after ablation."""
    input:
        model=model_files,
        tokens=f"{TEXT}/tokens.parquet",
        counts=f"{TEXT}/token_counts.parquet",
        statistics=f"{TEXT}/activation_statistics.parquet",
        selection=selections,
        reference=reference_files,
    output:
        reference_kl=f"{ABLATION}/reference_kl.parquet",
    log:
        "results/logs/{model}/texts/{text}/measure_reference_kl.log",
    benchmark:
        "results/benchmarks/{model}/texts/{text}/measure_reference_kl.tsv"
    conda:
        "../envs/environment.yaml"
    threads: COMPUTE["threads"]
    resources:
        mem_mb=memory("forward", both_models),
        runtime=minutes("forward", both_models),
        gpu=gpu("gpus"),
        gres=gpu("gres"),
    params:
        code=library("measure_reference_kl"),
        model=model_spec,
        ablation=ablation_settings,
        references=reference_specs,
        tokens=config["sets"]["tokens"],
        resamples=ABLATE["resamples"],
        level=ABLATE["level"],
    script:
        "../workflow_scripts/measure_reference_kl.py"
