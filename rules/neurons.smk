"""Weights only: norms, LogitVar, null space, rho, vocabulary moments; selections and their controls.

Needs: a model's files; for the cosine with the log-unigram direction, a text's token counts.
Makes: results/{model}/weights/*.parquet and results/{model}/texts/{text}/frequency_cosine.parquet.
"""


rule measure_neurons:
    """Measure the weights of every neuron of every layer, and the null space of W_U."""
    input:
        model=model_files,
    output:
        neurons="results/{model}/weights/neurons.parquet",
        null_space="results/{model}/weights/null_space.parquet",
        singular_values="results/{model}/weights/singular_values.parquet",
    log:
        "results/logs/{model}/weights/measure_neurons.log",
    benchmark:
        "results/benchmarks/{model}/weights/measure_neurons.tsv"
    conda:
        "../envs/environment.yaml"
    threads: COMPUTE["threads"]
    resources:
        mem_mb=memory("weights"),
        runtime=minutes("weights"),
        gpu=gpu("gpus"),
        gres=gpu("gres"),
    params:
        code=library("measure_neurons"),
        model=model_spec,
        null_space_k=null_space_k,
        include_padded=config["weights"]["include_padded"],
        neurons_per_tile=COMPUTE["neurons_per_tile"],
        seed=config["seed"],
    script:
        "../workflow_scripts/measure_neurons.py"


rule select_neurons:
    """Choose sets of neurons by the configured rules, and controls disjoint from all of them."""
    input:
        neurons="results/{model}/weights/neurons.parquet",
        null_space="results/{model}/weights/null_space.parquet",
        singular_values="results/{model}/weights/singular_values.parquet",
        statistics=selection_statistics,
    output:
        selection="results/{model}/weights/selection.parquet",
    log:
        "results/logs/{model}/weights/select_neurons.log",
    benchmark:
        "results/benchmarks/{model}/weights/select_neurons.tsv"
    conda:
        "../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=small(1000),
        runtime=small(10),
        gpu=0,
    params:
        code=library("select_neurons"),
        selections=selections_of,
        control_sets=config["controls"]["sets"],
        null_space_k=null_space_k,
        seed=config["seed"],
    script:
        "../workflow_scripts/select_neurons.py"


rule align_neurons:
    """Cosines of the chosen neurons and of controls with every singular direction of W_U."""
    input:
        model=model_files,
        selection="results/{model}/weights/selection.parquet",
    output:
        alignment="results/{model}/weights/alignment.parquet",
    log:
        "results/logs/{model}/weights/align_neurons.log",
    benchmark:
        "results/benchmarks/{model}/weights/align_neurons.tsv"
    conda:
        "../envs/environment.yaml"
    threads: COMPUTE["threads"]
    resources:
        mem_mb=memory("weights"),
        runtime=minutes("weights"),
        gpu=gpu("gpus"),
        gres=gpu("gres"),
    params:
        code=library("align_neurons"),
        model=model_spec,
    script:
        "../workflow_scripts/align_neurons.py"


rule boost_tokens:
    """The tokens that each chosen neuron promotes and suppresses most."""
    input:
        model=model_files,
        selection=selections,
    output:
        boosted="results/{model}/texts/{text}/boosted_tokens.parquet",
        strings="results/{model}/texts/{text}/token_strings.parquet",
    log:
        "results/logs/{model}/texts/{text}/boost_tokens.log",
    benchmark:
        "results/benchmarks/{model}/texts/{text}/boost_tokens.tsv"
    conda:
        "../envs/environment.yaml"
    threads: COMPUTE["threads"]
    resources:
        mem_mb=memory("weights"),
        runtime=minutes("weights"),
        gpu=gpu("gpus"),
        gres=gpu("gres"),
    params:
        code=library("boost_tokens"),
        model=model_spec,
        shown=10,
    script:
        "../workflow_scripts/boost_tokens.py"


rule measure_frequency_cosine:
    """Cosine of what every neuron writes on the logits with the centred log-unigram direction."""
    input:
        model=model_files,
        counts="results/{model}/texts/{text}/token_counts.parquet",
    output:
        cosine="results/{model}/texts/{text}/frequency_cosine.parquet",
    log:
        "results/logs/{model}/texts/{text}/measure_frequency_cosine.log",
    benchmark:
        "results/benchmarks/{model}/texts/{text}/measure_frequency_cosine.tsv"
    conda:
        "../envs/environment.yaml"
    threads: COMPUTE["threads"]
    resources:
        mem_mb=memory("weights"),
        runtime=minutes("weights"),
        gpu=gpu("gpus"),
        gres=gpu("gres"),
    params:
        code=library("measure_frequency_cosine"),
        model=model_spec,
        include_padded=lambda wildcards: config["texts"][wildcards.text][
            "include_padded"
        ],
    script:
        "../workflow_scripts/measure_frequency_cosine.py"


rule compare_published:
    """Published rho, LogitVar and norm of the same model's neurons against ours."""
    input:
        model=model_files,
        values=PUBLISHED_VALUES,
    output:
        published="results/{model}/weights/published.parquet",
    log:
        "results/logs/{model}/weights/compare_published.log",
    benchmark:
        "results/benchmarks/{model}/weights/compare_published.tsv"
    conda:
        "../envs/environment.yaml"
    threads: COMPUTE["threads"]
    resources:
        mem_mb=memory("weights"),
        runtime=minutes("weights"),
        gpu=gpu("gpus"),
        gres=gpu("gres"),
    params:
        code=library("compare_published"),
        model=model_spec,
    script:
        "../workflow_scripts/compare_published.py"
