"""Figures of the weights as study B shows them.

Needs: tables only; no job here loads a model, and no figure imports torch.
Makes: results/{model}/weights/figures/.
"""


rule draw_selected_neurons:
    """LogitVar and rho of every last-layer neuron, the selected ones marked."""
    input:
        neurons="results/{model}/weights/neurons.parquet",
        null_space="results/{model}/weights/null_space.parquet",
        selection="results/{model}/weights/selection.parquet",
    output:
        figures=in_report(
            "results/{model}/weights/figures/selected_neurons", "selected_neurons"
        ),
    log:
        "results/logs/{model}/weights/draw_selected_neurons.log",
    benchmark:
        "results/benchmarks/{model}/weights/draw_selected_neurons.tsv"
    conda:
        "../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=small(4000),
        runtime=small(30),
        gpu=0,
    params:
        code=library("draw_selected_neurons"),
    script:
        "../workflow_scripts/draw_selected_neurons.py"


rule draw_norm_logitvar_layers:
    """LogitVar against norm, layer by layer."""
    input:
        neurons="results/{model}/weights/neurons.parquet",
        selection="results/{model}/weights/selection.parquet",
    output:
        figures=in_report(
            "results/{model}/weights/figures/norm_logitvar_layers",
            "norm_logitvar_layers",
        ),
    log:
        "results/logs/{model}/weights/draw_norm_logitvar_layers.log",
    benchmark:
        "results/benchmarks/{model}/weights/draw_norm_logitvar_layers.tsv"
    conda:
        "../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=small(4000),
        runtime=small(30),
        gpu=0,
    params:
        code=library("draw_norm_logitvar_layers"),
    script:
        "../workflow_scripts/draw_norm_logitvar_layers.py"


rule draw_layer_trends:
    """Norm, LogitVar and rho over the layers."""
    input:
        neurons="results/{model}/weights/neurons.parquet",
        null_space="results/{model}/weights/null_space.parquet",
        selection="results/{model}/weights/selection.parquet",
    output:
        figures=in_report(
            "results/{model}/weights/figures/layer_trends", "layer_trends"
        ),
    log:
        "results/logs/{model}/weights/draw_layer_trends.log",
    benchmark:
        "results/benchmarks/{model}/weights/draw_layer_trends.tsv"
    conda:
        "../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=small(4000),
        runtime=small(30),
        gpu=0,
    params:
        code=library("draw_layer_trends"),
    script:
        "../workflow_scripts/draw_layer_trends.py"


rule draw_norm_distributions:
    """Norms of selected and of all other neurons."""
    input:
        neurons="results/{model}/weights/neurons.parquet",
        selection="results/{model}/weights/selection.parquet",
    output:
        figures=in_report(
            "results/{model}/weights/figures/norm_distributions", "norm_distributions"
        ),
    log:
        "results/logs/{model}/weights/draw_norm_distributions.log",
    benchmark:
        "results/benchmarks/{model}/weights/draw_norm_distributions.tsv"
    conda:
        "../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=small(4000),
        runtime=small(30),
        gpu=0,
    params:
        code=library("draw_norm_distributions"),
    script:
        "../workflow_scripts/draw_norm_distributions.py"
