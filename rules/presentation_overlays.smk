"""Figures of the study of stages for all its models together.

Needs: tables only; no job here loads a model, and no figure imports torch.
Makes: results/stages/{text}/figures/.
"""


rule overlay_interventions:
    """Deleted and swapped layers of all models."""
    input:
        interventions=of_stage_models(f"{LAYERS}/interventions.parquet"),
    output:
        figures=in_report(f"{OVERLAY}/figures/interventions", "interventions"),
    log:
        "results/logs/stages/{text}/overlay_interventions.log",
    benchmark:
        "results/benchmarks/stages/{text}/overlay_interventions.tsv"
    conda:
        "../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=small(4000),
        runtime=small(30),
        gpu=0,
    params:
        code=library("overlay_interventions"),
        model=STAGES["models"],
        level=ABLATE["level"],
    script:
        "../workflow_scripts/overlay_interventions.py"


rule overlay_stages:
    """The four stages of all models."""
    input:
        stages=of_stage_models(f"{LAYERS}/stages.parquet"),
        interventions=of_stage(
            "interventions", of_stage_models(f"{LAYERS}/interventions.parquet")
        ),
        lens=of_stage("lens", of_stage_models(f"{LAYERS}/lens.parquet")),
        vocabulary_counts=of_stage(
            "vocabulary",
            of_stage_models("results/{model}/weights/vocabulary_counts.parquet"),
        ),
        local_attention_layers=of_stage(
            "attention", of_stage_models(f"{LAYERS}/local_attention_layers.parquet")
        ),
    output:
        figures=in_report(f"{OVERLAY}/figures/stages", "stages"),
    log:
        "results/logs/stages/{text}/overlay_stages.log",
    benchmark:
        "results/benchmarks/stages/{text}/overlay_stages.tsv"
    conda:
        "../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=small(4000),
        runtime=small(30),
        gpu=0,
    params:
        code=library("overlay_stages"),
        model=STAGES["models"],
        level=ABLATE["level"],
    script:
        "../workflow_scripts/overlay_stages.py"


rule overlay_layer_neuron_counts:
    """Prediction, suppression and partition neurons of all models."""
    input:
        vocabulary_counts=of_stage_models(
            "results/{model}/weights/vocabulary_counts.parquet"
        ),
    output:
        figures=in_report(
            f"{OVERLAY}/figures/layer_neuron_counts", "layer_neuron_counts"
        ),
    log:
        "results/logs/stages/{text}/overlay_layer_neuron_counts.log",
    benchmark:
        "results/benchmarks/stages/{text}/overlay_layer_neuron_counts.tsv"
    conda:
        "../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=small(4000),
        runtime=small(30),
        gpu=0,
    params:
        code=library("overlay_layer_neuron_counts"),
        model=STAGES["models"],
        level=ABLATE["level"],
    script:
        "../workflow_scripts/overlay_layer_neuron_counts.py"


rule overlay_local_attention:
    """Attention on the tokens just before, of all models."""
    input:
        local_attention=of_stage_models(f"{LAYERS}/local_attention.parquet"),
        local_attention_layers=of_stage_models(
            f"{LAYERS}/local_attention_layers.parquet"
        ),
        attention_bos=of_stage_models(f"{LAYERS}/attention_bos.parquet"),
    output:
        figures=in_report(f"{OVERLAY}/figures/local_attention", "local_attention"),
    log:
        "results/logs/stages/{text}/overlay_local_attention.log",
    benchmark:
        "results/benchmarks/stages/{text}/overlay_local_attention.tsv"
    conda:
        "../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=small(4000),
        runtime=small(30),
        gpu=0,
    params:
        code=library("overlay_local_attention"),
        model=STAGES["models"],
        level=ABLATE["level"],
    script:
        "../workflow_scripts/overlay_local_attention.py"
