"""Study B, second half: sets and controls, decoding under ablation with its proof, scores, tables.

Needs: the conflict prompts of `knowledge.smk`, selections, and for effect-based sets a text of study A.
Makes: results/{model}/facts/{facts}/knowledge/ from sets.parquet on, and results/copying/{facts}/tables/.
"""


rule select_copying_sets:
    """The sets that are replaced, their controls, and by what."""
    input:
        selection=copying_selections,
        neurons="results/{model}/weights/neurons.parquet",
        heads=copying_heads("heads"),
        head_neurons=copying_heads("head_neurons"),
    output:
        sets=f"{KNOWLEDGE}/sets.parquet",
        variants=f"{KNOWLEDGE}/variants.parquet",
    log:
        "results/logs/{model}/facts/{facts}/select_copying_sets.log",
    benchmark:
        "results/benchmarks/{model}/facts/{facts}/select_copying_sets.tsv"
    conda:
        "../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=small(1000),
        runtime=small(10),
        gpu=0,
    params:
        code=library("select_copying_sets"),
        names=copying_sets,
        induction_driven=COPY["induction_driven"],
        replacements=COPY["replacements"],
        doses=COPY["dose_response"]["points"],
        dose_controls=COPY["dose_response"]["controls"],
        uniform=COPY["controls"]["uniform"],
        norm_matched=COPY["controls"]["norm_matched"],
        synthetic=COPY["controls"]["synthetic"],
        neighbours=COPY["controls"]["neighbours"],
        seed=config["seed"],
    script:
        "../workflow_scripts/select_copying_sets.py"


rule decode_conflicts:
    """Greedy continuations of one shard's prompts under all variants, from one prefix tree for each prompt."""
    input:
        model=model_files,
        conflicts=f"{KNOWLEDGE}/conflicts.parquet",
        statistics=copying_statistics,
        sets=f"{KNOWLEDGE}/sets.parquet",
        variants=f"{KNOWLEDGE}/variants.parquet",
    output:
        decoded=f"{KNOWLEDGE}/shards/{{shard}}/decoded.parquet",
        continuations=f"{KNOWLEDGE}/shards/{{shard}}/continuations.parquet",
        states=f"{KNOWLEDGE}/shards/{{shard}}/states.parquet",
        costs=f"{KNOWLEDGE}/shards/{{shard}}/costs.parquet",
    log:
        "results/logs/{model}/facts/{facts}/decode_conflicts/{shard}.log",
    benchmark:
        "results/benchmarks/{model}/facts/{facts}/decode_conflicts/{shard}.tsv"
    conda:
        "../envs/environment.yaml"
    threads: COMPUTE["threads"]
    resources:
        mem_mb=memory("decoding"),
        runtime=minutes("decoding"),
        gpu=gpu("gpus"),
        gres=gpu("gres"),
    params:
        code=library("decode_conflicts"),
        model=model_spec,
        shards=COPY["shards"],
        new_tokens=COPY["new_tokens"],
        kernel=COMPUTE["kernel"],
        batch_size=COMPUTE["batch_size"],
        tokens_per_chunk=COMPUTE["tokens_per_chunk"],
        tie=COPY["verification"]["tie"],
        seed=config["seed"],
    script:
        "../workflow_scripts/decode_conflicts.py"


rule verify_decoding:
    """A sample of prompts and variants generated anew, one by one, with hooks in float64."""
    input:
        model=model_files,
        conflicts=f"{KNOWLEDGE}/conflicts.parquet",
        statistics=copying_statistics,
        sets=f"{KNOWLEDGE}/sets.parquet",
        variants=f"{KNOWLEDGE}/variants.parquet",
        decoded=decoded("decoded"),
        continuations=decoded("continuations"),
        states=decoded("states"),
    output:
        verification=f"{KNOWLEDGE}/decoding_verification.parquet",
    log:
        "results/logs/{model}/facts/{facts}/verify_decoding.log",
    benchmark:
        "results/benchmarks/{model}/facts/{facts}/verify_decoding.tsv"
    conda:
        "../envs/environment.yaml"
    threads: COMPUTE["threads"]
    resources:
        mem_mb=memory("float64"),
        runtime=minutes("float64"),
        gpu=gpu("gpus"),
        gres=gpu("gres"),
    params:
        code=library("verify_decoding"),
        model=model_spec,
        pairs=COPY["verification"]["pairs"],
        tie=COPY["verification"]["tie"],
        absolute=ABLATE["verification"]["absolute"],
        relative=ABLATE["verification"]["relative"],
        float64_mb=COMPUTE["float64_mb"],
        new_tokens=COPY["new_tokens"],
        seed=config["seed"],
    script:
        "../workflow_scripts/verify_decoding.py"


rule score_copying:
    """Transitions, conversion ratios, ranks among the controls, flips: all numbers of study B."""
    input:
        facts=f"{FACTS}/facts.parquet",
        conflicts=f"{KNOWLEDGE}/conflicts.parquet",
        variants=f"{KNOWLEDGE}/variants.parquet",
        decoded=decoded("decoded"),
        continuations=decoded("continuations"),
        states=decoded("states"),
        verification=f"{KNOWLEDGE}/decoding_verification.parquet",
    output:
        class_counts=f"{KNOWLEDGE}/class_counts.parquet",
        transitions=f"{KNOWLEDGE}/transitions.parquet",
        scores=f"{KNOWLEDGE}/scores.parquet",
        control_tests=f"{KNOWLEDGE}/control_tests.parquet",
        relations=f"{KNOWLEDGE}/relations.parquet",
        doses=f"{KNOWLEDGE}/doses.parquet",
        flips=f"{KNOWLEDGE}/flips.parquet",
        flip_prediction=f"{KNOWLEDGE}/flip_prediction.parquet",
        examples=f"{KNOWLEDGE}/examples.parquet",
    log:
        "results/logs/{model}/facts/{facts}/score_copying.log",
    benchmark:
        "results/benchmarks/{model}/facts/{facts}/score_copying.tsv"
    conda:
        "../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=small(4000),
        runtime=small(60),
        gpu=0,
    params:
        code=library("score_copying"),
        replacement=COPY["replacements"][0],
        examples_per_set=COPY["examples"],
        resamples=ABLATE["resamples"],
        level=ABLATE["level"],
        seed=config["seed"],
    script:
        "../workflow_scripts/score_copying.py"


rule write_copying_tables:
    """Tables for papers: transitions, scores, selected neurons, example prompts; LaTeX and HTML."""
    input:
        class_counts=f"{KNOWLEDGE}/class_counts.parquet",
        transitions=f"{KNOWLEDGE}/transitions.parquet",
        scores=f"{KNOWLEDGE}/scores.parquet",
        control_tests=f"{KNOWLEDGE}/control_tests.parquet",
        examples=f"{KNOWLEDGE}/examples.parquet",
        sets=f"{KNOWLEDGE}/sets.parquet",
        neurons="results/{model}/weights/neurons.parquet",
        null_space="results/{model}/weights/null_space.parquet",
    output:
        tables=tables_in_report(f"{KNOWLEDGE}/tables", COPYING_TABLES),
    log:
        "results/logs/{model}/facts/{facts}/write_copying_tables.log",
    benchmark:
        "results/benchmarks/{model}/facts/{facts}/write_copying_tables.tsv"
    conda:
        "../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=small(1000),
        runtime=small(10),
        gpu=0,
    params:
        code=library("write_copying_tables"),
        replacement=COPY["replacements"][0],
        level=ABLATE["level"],
    script:
        "../workflow_scripts/write_copying_tables.py"


rule compare_copying:
    """The studied models side by side: scores by replacement, dimensions and activation functions."""
    input:
        models=copying_model_files,
        class_counts=of_models("class_counts"),
        scores=of_models("scores"),
        control_tests=of_models("control_tests"),
    output:
        tables=tables_in_report("results/copying/{facts}/tables", COMPARED_TABLES),
    log:
        "results/logs/copying/{facts}/compare_copying.log",
    benchmark:
        "results/benchmarks/copying/{facts}/compare_copying.tsv"
    conda:
        "../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=small(1000),
        runtime=small(10),
        gpu=0,
    params:
        code=library("compare_copying"),
        models=lambda wildcards: {
            name: model_spec(as_model(name)) for name in COPY["models"]
        },
        level=ABLATE["level"],
    script:
        "../workflow_scripts/compare_copying.py"


rule compare_published_copying:
    """Published scores of a model that study B looked at, beside ours."""
    input:
        class_counts=f"{KNOWLEDGE}/class_counts.parquet",
        scores=f"{KNOWLEDGE}/scores.parquet",
        control_tests=f"{KNOWLEDGE}/control_tests.parquet",
        statistics=copying_statistics,
        sets=f"{KNOWLEDGE}/sets.parquet",
        values=[str(COPYING_VALUES), str(COPYING_ACTIVATIONS)],
    output:
        published=f"{KNOWLEDGE}/published.parquet",
    log:
        "results/logs/{model}/facts/{facts}/compare_published_copying.log",
    benchmark:
        "results/benchmarks/{model}/facts/{facts}/compare_published_copying.tsv"
    conda:
        "../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=small(1000),
        runtime=small(10),
        gpu=0,
    params:
        code=library("compare_published_copying"),
        model_name=lambda wildcards: published_name(
            model_entry(wildcards), wildcards.model
        ),
    script:
        "../workflow_scripts/compare_published_copying.py"
