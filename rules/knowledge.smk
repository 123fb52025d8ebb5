"""Study B, first half: knowledge bases, parametric answers, filters, conflict prompts.

Needs: knowledge bases (`facts`) and models.
Makes: results/inputs/facts/{facts}/*.parquet and results/{model}/facts/{facts}/knowledge/*.parquet.
"""


localrules:
    fetch_facts,


rule fetch_facts:
    """Download study B's edition of ParaRel and check it."""
    output:
        facts=f"{FACTS}/pararel.csv",
        relations=f"{FACTS}/pararel_relations.xlsx",
        manifest=f"{FACTS}/manifest.json",
    log:
        "results/logs/inputs/fetch_facts/{facts}.log",
    benchmark:
        "results/benchmarks/inputs/fetch_facts/{facts}.tsv"
    conda:
        "../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=30,
        gpu=0,
    params:
        code=library("fetch_facts"),
        network=True,
    script:
        "../workflow_scripts/fetch_facts.py"


rule read_facts:
    """Check a knowledge base and bring it into one form."""
    input:
        files=facts_files,
    output:
        facts=f"{FACTS}/facts.parquet",
        relations=f"{FACTS}/relations.parquet",
    log:
        "results/logs/inputs/read_facts/{facts}.log",
    benchmark:
        "results/benchmarks/inputs/read_facts/{facts}.tsv"
    conda:
        "../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=small(1000),
        runtime=small(10),
        gpu=0,
    params:
        code=library("read_facts"),
        source=lambda wildcards: facts_entry(wildcards)["source"],
        max_facts=lambda wildcards: facts_entry(wildcards)["max_facts"],
        seed=config["seed"],
    script:
        "../workflow_scripts/read_facts.py"


rule answer_queries:
    """What the model says by itself: greedy parametric answers."""
    input:
        model=model_files,
        facts=f"{FACTS}/facts.parquet",
        relations=f"{FACTS}/relations.parquet",
    output:
        answers=f"{KNOWLEDGE}/answers.parquet",
    log:
        "results/logs/{model}/facts/{facts}/answer_queries.log",
    benchmark:
        "results/benchmarks/{model}/facts/{facts}/answer_queries.tsv"
    conda:
        "../envs/environment.yaml"
    threads: COMPUTE["threads"]
    resources:
        mem_mb=memory("answers"),
        runtime=minutes("answers"),
        gpu=gpu("gpus"),
        gres=gpu("gres"),
    params:
        code=library("answer_queries"),
        model=model_spec,
        template=template_of,
        bos=COPY["bos"],
        new_tokens=COPY["new_tokens"],
        batch_size=COMPUTE["batch_size"],
    script:
        "../workflow_scripts/answer_queries.py"


rule filter_answers:
    """Leave out facts whose answers say nothing about memory."""
    input:
        facts=f"{FACTS}/facts.parquet",
        relations=f"{FACTS}/relations.parquet",
        answers=f"{KNOWLEDGE}/answers.parquet",
    output:
        filtered=f"{KNOWLEDGE}/filtered.parquet",
    log:
        "results/logs/{model}/facts/{facts}/filter_answers.log",
    benchmark:
        "results/benchmarks/{model}/facts/{facts}/filter_answers.tsv"
    conda:
        "../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=small(1000),
        runtime=small(10),
        gpu=0,
    params:
        code=library("filter_answers"),
        filters=filters_of,
        similarity=COPY["similarity"],
    script:
        "../workflow_scripts/filter_answers.py"


rule make_conflicts:
    """Counter-objects and the prompts that contradict the model, with the activations on them."""
    input:
        model=model_files,
        facts=f"{FACTS}/facts.parquet",
        relations=f"{FACTS}/relations.parquet",
        answers=f"{KNOWLEDGE}/answers.parquet",
        filtered=f"{KNOWLEDGE}/filtered.parquet",
    output:
        counters=f"{KNOWLEDGE}/counters.parquet",
        conflicts=f"{KNOWLEDGE}/conflicts.parquet",
        funnel=f"{KNOWLEDGE}/funnel.parquet",
        statistics=f"{KNOWLEDGE}/activation_statistics.parquet",
    log:
        "results/logs/{model}/facts/{facts}/make_conflicts.log",
    benchmark:
        "results/benchmarks/{model}/facts/{facts}/make_conflicts.tsv"
    conda:
        "../envs/environment.yaml"
    threads: COMPUTE["threads"]
    resources:
        mem_mb=memory("forward"),
        runtime=minutes("forward"),
        gpu=gpu("gpus"),
        gres=gpu("gres"),
    params:
        code=library("make_conflicts"),
        model=model_spec,
        filters=filters_of,
        conflict=lambda wildcards: COPY["conflict"],  # its braces are no wildcards
        counters_per_fact=COPY["counters"],
        counters_by=COPY["counters_by"],
        bos=COPY["bos"],
        new_tokens=COPY["new_tokens"],
        max_prompts=COPY["max_prompts"],
        histogram_bins=ABLATE["histogram_bins"],
        batch_size=COMPUTE["batch_size"],
        seed=config["seed"],
    script:
        "../workflow_scripts/make_conflicts.py"
