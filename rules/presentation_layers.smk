"""Figures of the study of stages: of one model on a text, of its weights, and of all models together.

Needs: tables only; no job here loads a model, and no figure imports torch.
Makes: results/{model}/texts/{text}/layers/figures/, results/{model}/weights/figures/, results/stages/{text}/figures/.
"""


rule draw_interventions:
    """Deleted, replaced and swapped layers against depth."""
    input:
        interventions=f"{LAYERS}/interventions.parquet",
        verification=f"{LAYERS}/intervention_verification.parquet",
    output:
        figures=in_report(f"{LAYERS}/figures/interventions", "interventions"),
    log:
        "results/logs/{model}/texts/{text}/draw_interventions.log",
    benchmark:
        "results/benchmarks/{model}/texts/{text}/draw_interventions.tsv"
    conda:
        "../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=small(4000),
        runtime=small(30),
        gpu=0,
    params:
        code=library("draw_interventions"),
        level=ABLATE["level"],
    script:
        "../workflow_scripts/draw_interventions.py"


rule draw_swap_matrix:
    """Agreement of the top prediction when two layers change places."""
    input:
        interventions=f"{LAYERS}/interventions.parquet",
        verification=f"{LAYERS}/intervention_verification.parquet",
    output:
        figures=in_report(f"{LAYERS}/figures/swap_matrix", "swap_matrix"),
    log:
        "results/logs/{model}/texts/{text}/draw_swap_matrix.log",
    benchmark:
        "results/benchmarks/{model}/texts/{text}/draw_swap_matrix.tsv"
    conda:
        "../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=small(4000),
        runtime=small(30),
        gpu=0,
    params:
        code=library("draw_swap_matrix"),
        level=ABLATE["level"],
    script:
        "../workflow_scripts/draw_swap_matrix.py"


rule draw_lens:
    """Logit lens against depth."""
    input:
        lens=f"{LAYERS}/lens.parquet",
        lens_documents=f"{LAYERS}/lens_documents.parquet",
    output:
        figures=in_report(f"{LAYERS}/figures/lens", "lens"),
    log:
        "results/logs/{model}/texts/{text}/draw_lens.log",
    benchmark:
        "results/benchmarks/{model}/texts/{text}/draw_lens.tsv"
    conda:
        "../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=small(4000),
        runtime=small(30),
        gpu=0,
    params:
        code=library("draw_lens"),
        level=ABLATE["level"],
    script:
        "../workflow_scripts/draw_lens.py"


rule draw_lens_tokens:
    """What every layer would say next, along a passage."""
    input:
        lens_tokens=f"{LAYERS}/lens_tokens.parquet",
    output:
        figures=in_report(f"{LAYERS}/figures/lens_tokens", "lens_tokens"),
    log:
        "results/logs/{model}/texts/{text}/draw_lens_tokens.log",
    benchmark:
        "results/benchmarks/{model}/texts/{text}/draw_lens_tokens.tsv"
    conda:
        "../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=small(4000),
        runtime=small(30),
        gpu=0,
    params:
        code=library("draw_lens_tokens"),
    script:
        "../workflow_scripts/draw_lens_tokens.py"


rule draw_local_attention:
    """Attention on the tokens just before, by layer and head."""
    input:
        local_attention=f"{LAYERS}/local_attention.parquet",
        local_attention_layers=f"{LAYERS}/local_attention_layers.parquet",
        attention_bos=f"{LAYERS}/attention_bos.parquet",
    output:
        figures=in_report(f"{LAYERS}/figures/local_attention", "local_attention"),
    log:
        "results/logs/{model}/texts/{text}/draw_local_attention.log",
    benchmark:
        "results/benchmarks/{model}/texts/{text}/draw_local_attention.tsv"
    conda:
        "../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=small(4000),
        runtime=small(30),
        gpu=0,
    params:
        code=library("draw_local_attention"),
        level=ABLATE["level"],
    script:
        "../workflow_scripts/draw_local_attention.py"


rule draw_subjoiners:
    """Heads that join the pieces of a word."""
    input:
        subjoiners=f"{LAYERS}/subjoiners.parquet",
    output:
        figures=in_report(f"{LAYERS}/figures/subjoiners", "subjoiners"),
    log:
        "results/logs/{model}/texts/{text}/draw_subjoiners.log",
    benchmark:
        "results/benchmarks/{model}/texts/{text}/draw_subjoiners.tsv"
    conda:
        "../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=small(4000),
        runtime=small(30),
        gpu=0,
    params:
        code=library("draw_subjoiners"),
        level=ABLATE["level"],
    script:
        "../workflow_scripts/draw_subjoiners.py"


rule draw_subjoiner_examples:
    """Attention of the best joining head on words drawn at random."""
    input:
        subjoiner_examples=f"{LAYERS}/subjoiner_examples.parquet",
    output:
        figures=in_report(f"{LAYERS}/figures/subjoiner_examples", "subjoiner_examples"),
    log:
        "results/logs/{model}/texts/{text}/draw_subjoiner_examples.log",
    benchmark:
        "results/benchmarks/{model}/texts/{text}/draw_subjoiner_examples.tsv"
    conda:
        "../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=small(4000),
        runtime=small(30),
        gpu=0,
    params:
        code=library("draw_subjoiner_examples"),
    script:
        "../workflow_scripts/draw_subjoiner_examples.py"


rule draw_probes:
    """Probes on single neurons and ensembles."""
    input:
        probes=f"{LAYERS}/probes.parquet",
    output:
        figures=in_report(f"{LAYERS}/figures/probes", "probes"),
    log:
        "results/logs/{model}/texts/{text}/draw_probes.log",
    benchmark:
        "results/benchmarks/{model}/texts/{text}/draw_probes.tsv"
    conda:
        "../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=small(4000),
        runtime=small(30),
        gpu=0,
    params:
        code=library("draw_probes"),
        level=ABLATE["level"],
    script:
        "../workflow_scripts/draw_probes.py"


rule draw_stages:
    """The four stages on one depth axis."""
    input:
        stages=f"{LAYERS}/stages.parquet",
        interventions=of_stage("interventions", f"{LAYERS}/interventions.parquet"),
        lens=of_stage("lens", f"{LAYERS}/lens.parquet"),
        vocabulary_counts=of_stage(
            "vocabulary", "results/{model}/weights/vocabulary_counts.parquet"
        ),
        local_attention_layers=of_stage(
            "attention", f"{LAYERS}/local_attention_layers.parquet"
        ),
    output:
        figures=in_report(f"{LAYERS}/figures/stages", "stages"),
    log:
        "results/logs/{model}/texts/{text}/draw_stages.log",
    benchmark:
        "results/benchmarks/{model}/texts/{text}/draw_stages.tsv"
    conda:
        "../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=small(4000),
        runtime=small(30),
        gpu=0,
    params:
        code=library("draw_stages"),
        level=ABLATE["level"],
    script:
        "../workflow_scripts/draw_stages.py"


rule draw_layer_neuron_counts:
    """Prediction, suppression and partition neurons against depth."""
    input:
        vocabulary_counts="results/{model}/weights/vocabulary_counts.parquet",
    output:
        figures=in_report(
            "results/{model}/weights/figures/layer_neuron_counts",
            "layer_neuron_counts",
        ),
    log:
        "results/logs/{model}/weights/draw_layer_neuron_counts.log",
    benchmark:
        "results/benchmarks/{model}/weights/draw_layer_neuron_counts.tsv"
    conda:
        "../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=small(4000),
        runtime=small(30),
        gpu=0,
    params:
        code=library("draw_layer_neuron_counts"),
        level=ABLATE["level"],
    script:
        "../workflow_scripts/draw_layer_neuron_counts.py"


rule draw_strongest_neurons:
    """The strongest neurons of each kind with their tokens."""
    input:
        vocabulary_neurons="results/{model}/weights/vocabulary_neurons.parquet",
    output:
        figures=in_report(
            "results/{model}/weights/figures/strongest_neurons", "strongest_neurons"
        ),
    log:
        "results/logs/{model}/weights/draw_strongest_neurons.log",
    benchmark:
        "results/benchmarks/{model}/weights/draw_strongest_neurons.tsv"
    conda:
        "../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=small(4000),
        runtime=small(30),
        gpu=0,
    params:
        code=library("draw_strongest_neurons"),
    script:
        "../workflow_scripts/draw_strongest_neurons.py"


rule draw_feature_neurons:
    """The best neuron of each vocabulary feature."""
    input:
        feature_neurons="results/{model}/weights/feature_neurons.parquet",
        feature_histograms="results/{model}/weights/feature_histograms.parquet",
    output:
        figures=in_report(
            "results/{model}/weights/figures/feature_neurons", "feature_neurons"
        ),
    log:
        "results/logs/{model}/weights/draw_feature_neurons.log",
    benchmark:
        "results/benchmarks/{model}/weights/draw_feature_neurons.tsv"
    conda:
        "../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=small(4000),
        runtime=small(30),
        gpu=0,
    params:
        code=library("draw_feature_neurons"),
        level=ABLATE["level"],
    script:
        "../workflow_scripts/draw_feature_neurons.py"
