"""Study C: what layers do, by depth.

Needs: models, the tokens of a text and its documents; measures of the weights.
Makes: results/{model}/texts/{text}/layers/*.parquet and results/{model}/weights/{vocabulary,feature}_*.parquet.
"""


rule intervene_layers:
    """Layers deleted, swapped and replaced by their means, from one clean run; with the proof."""
    input:
        model=model_files,
        tokens=f"{TEXT}/tokens.parquet",
    output:
        table=f"{LAYERS}/interventions.parquet",
        costs=f"{LAYERS}/intervention_costs.parquet",
        verification=f"{LAYERS}/intervention_verification.parquet",
    log:
        "results/logs/{model}/texts/{text}/intervene_layers.log",
    benchmark:
        "results/benchmarks/{model}/texts/{text}/intervene_layers.tsv"
    conda:
        "../envs/environment.yaml"
    threads: COMPUTE["threads"]
    resources:
        mem_mb=memory("layers"),
        runtime=minutes("layers"),
        gpu=gpu("gpus"),
        gres=gpu("gres"),
    params:
        code=library("intervene_layers"),
        model=model_spec,
        kinds=STAGES["interventions"],
        swaps=STAGES["swaps"],
        sequences=STAGES["sequences"],
        batch_size=COMPUTE["batch_size"],
        tokens_per_chunk=COMPUTE["tokens_per_chunk"],
        absolute=ABLATE["verification"]["absolute"],
        relative=ABLATE["verification"]["relative"],
        float64_mb=COMPUTE["float64_mb"],
        resamples=ABLATE["resamples"],
        level=ABLATE["level"],
        seed=config["seed"],
    script:
        "../workflow_scripts/intervene_layers.py"


rule measure_lens:
    """Logit lens: what every layer would predict."""
    input:
        model=model_files,
        tokens=f"{TEXT}/tokens.parquet",
    output:
        lens=f"{LAYERS}/lens.parquet",
        lens_documents=f"{LAYERS}/lens_documents.parquet",
        lens_tokens=f"{LAYERS}/lens_tokens.parquet",
    log:
        "results/logs/{model}/texts/{text}/measure_lens.log",
    benchmark:
        "results/benchmarks/{model}/texts/{text}/measure_lens.tsv"
    conda:
        "../envs/environment.yaml"
    threads: COMPUTE["threads"]
    resources:
        mem_mb=memory("lens"),
        runtime=minutes("lens"),
        gpu=gpu("gpus"),
        gres=gpu("gres"),
    params:
        code=library("measure_lens"),
        model=model_spec,
        sequences=STAGES["sequences"],
        passages=STAGES["lens"]["passages"],
        passage_tokens=STAGES["lens"]["tokens"],
        batch_size=COMPUTE["batch_size"],
        tokens_per_chunk=COMPUTE["tokens_per_chunk"],
        resamples=ABLATE["resamples"],
        level=ABLATE["level"],
        seed=config["seed"],
    script:
        "../workflow_scripts/measure_lens.py"


rule measure_local_attention:
    """Attention on the tokens just before, by layer and head."""
    input:
        model=model_files,
        tokens=f"{TEXT}/tokens.parquet",
    output:
        local_attention=f"{LAYERS}/local_attention.parquet",
        attention_bos=f"{LAYERS}/attention_bos.parquet",
        local_attention_layers=f"{LAYERS}/local_attention_layers.parquet",
    log:
        "results/logs/{model}/texts/{text}/measure_local_attention.log",
    benchmark:
        "results/benchmarks/{model}/texts/{text}/measure_local_attention.tsv"
    conda:
        "../envs/environment.yaml"
    threads: COMPUTE["threads"]
    resources:
        mem_mb=memory("forward"),
        runtime=minutes("forward"),
        gpu=gpu("gpus"),
        gres=gpu("gres"),
    params:
        code=library("measure_local_attention"),
        model=model_spec,
        offsets=STAGES["offsets"],
        sequences=STAGES["sequences"],
        batch_size=COMPUTE["batch_size"],
        resamples=ABLATE["resamples"],
        level=ABLATE["level"],
        seed=config["seed"],
    script:
        "../workflow_scripts/measure_local_attention.py"


rule score_subjoiners:
    """Heads that join the pieces of a word."""
    input:
        model=model_files,
        documents=text_documents,
    output:
        subjoiners=f"{LAYERS}/subjoiners.parquet",
        subjoiner_examples=f"{LAYERS}/subjoiner_examples.parquet",
    log:
        "results/logs/{model}/texts/{text}/score_subjoiners.log",
    benchmark:
        "results/benchmarks/{model}/texts/{text}/score_subjoiners.tsv"
    conda:
        "../envs/environment.yaml"
    threads: COMPUTE["threads"]
    resources:
        mem_mb=memory("forward"),
        runtime=minutes("forward"),
        gpu=gpu("gpus"),
        gres=gpu("gres"),
    params:
        code=library("score_subjoiners"),
        model=model_spec,
        text=text_spec,
        pieces=STAGES["subjoiners"]["pieces"],
        words=STAGES["subjoiners"]["words"],
        context=STAGES["subjoiners"]["context"],
        examples=STAGES["subjoiners"]["examples"],
        batch_size=COMPUTE["batch_size"],
        resamples=ABLATE["resamples"],
        level=ABLATE["level"],
        seed=config["seed"],
    script:
        "../workflow_scripts/score_subjoiners.py"


rule count_vocabulary_neurons:
    """Prediction, suppression and partition neurons by layer."""
    input:
        model=model_files,
        neurons="results/{model}/weights/neurons.parquet",
    output:
        vocabulary_counts="results/{model}/weights/vocabulary_counts.parquet",
        vocabulary_neurons="results/{model}/weights/vocabulary_neurons.parquet",
    log:
        "results/logs/{model}/weights/count_vocabulary_neurons.log",
    benchmark:
        "results/benchmarks/{model}/weights/count_vocabulary_neurons.tsv"
    conda:
        "../envs/environment.yaml"
    threads: COMPUTE["threads"]
    resources:
        mem_mb=memory("weights"),
        runtime=minutes("weights"),
        gpu=gpu("gpus"),
        gres=gpu("gres"),
    params:
        code=library("count_vocabulary_neurons"),
        model=model_spec,
        vocab_kurt_min=STAGES["vocab_kurt_min"],
        vocab_var_min=STAGES["vocab_var_min"],
        strongest=STAGES["strongest"],
        level=ABLATE["level"],
    script:
        "../workflow_scripts/count_vocabulary_neurons.py"


rule score_features:
    """Neurons that promote or suppress a feature of tokens."""
    input:
        model=model_files,
        neurons="results/{model}/weights/neurons.parquet",
    output:
        features="results/{model}/weights/features.parquet",
        feature_neurons="results/{model}/weights/feature_neurons.parquet",
        feature_histograms="results/{model}/weights/feature_histograms.parquet",
    log:
        "results/logs/{model}/weights/score_features.log",
    benchmark:
        "results/benchmarks/{model}/weights/score_features.tsv"
    conda:
        "../envs/environment.yaml"
    threads: COMPUTE["threads"]
    resources:
        mem_mb=memory("weights"),
        runtime=minutes("weights"),
        gpu=gpu("gpus"),
        gres=gpu("gres"),
    params:
        code=library("score_features"),
        model=model_spec,
        vocab_kurt_min=STAGES["vocab_kurt_min"],
        vocab_var_min=STAGES["vocab_var_min"],
        min_tokens=STAGES["features"]["min_tokens"],
        top=STAGES["features"]["top"],
    script:
        "../workflow_scripts/score_features.py"


rule train_probes:
    """Probes for a feature of the next token on single neurons and ensembles."""
    input:
        model=model_files,
        tokens=f"{TEXT}/tokens.parquet",
        neurons="results/{model}/weights/neurons.parquet",
        feature_neurons="results/{model}/weights/feature_neurons.parquet",
    output:
        probes=f"{LAYERS}/probes.parquet",
    log:
        "results/logs/{model}/texts/{text}/train_probes.log",
    benchmark:
        "results/benchmarks/{model}/texts/{text}/train_probes.tsv"
    conda:
        "../envs/environment.yaml"
    threads: COMPUTE["threads"]
    resources:
        mem_mb=memory("forward"),
        runtime=minutes("forward"),
        gpu=gpu("gpus"),
        gres=gpu("gres"),
    params:
        code=library("train_probes"),
        model=model_spec,
        features=STAGES["probes"]["features"],
        sizes=STAGES["probes"]["sizes"],
        draws=STAGES["probes"]["draws"],
        max_tokens=STAGES["probes"]["tokens"],
        batch_size=COMPUTE["batch_size"],
        resamples=ABLATE["resamples"],
        level=ABLATE["level"],
        seed=config["seed"],
    script:
        "../workflow_scripts/train_probes.py"


rule estimate_stages:
    """Borders of the four stages, by stated rules."""
    input:
        interventions=of_stage("interventions", f"{LAYERS}/interventions.parquet"),
        lens=of_stage("lens", f"{LAYERS}/lens.parquet"),
        vocabulary_counts=of_stage(
            "vocabulary", "results/{model}/weights/vocabulary_counts.parquet"
        ),
        local_attention_layers=of_stage(
            "attention", f"{LAYERS}/local_attention_layers.parquet"
        ),
    output:
        stages=f"{LAYERS}/stages.parquet",
    log:
        "results/logs/{model}/texts/{text}/estimate_stages.log",
    benchmark:
        "results/benchmarks/{model}/texts/{text}/estimate_stages.tsv"
    conda:
        "../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=small(4000),
        runtime=small(30),
        gpu=0,
    params:
        code=library("estimate_stages"),
        resamples=ABLATE["resamples"],
        level=ABLATE["level"],
        seed=config["seed"],
    script:
        "../workflow_scripts/estimate_stages.py"
