"""What can go wrong, found out before anything is queued: `snakemake --cores 1 preflight`.

Needs: the configuration and, for what is to be fetched, the network; of models nothing but config.json is downloaded.
What was fetched before is read whole and compared with the sha256 of its manifest: seconds per GB.
Makes no files but a log: a table of all that the studies name, and a list of everything that is in the way.
"""

from neuronlab.used_inputs import used_facts, used_models, used_texts


localrules:
    preflight,


rule preflight:
    """Check hub access, revisions, sizes, contents and disk for everything that the studies name; exit 1 if all is not well."""
    log:
        "results/logs/preflight.log",
    # No benchmark: Snakemake would take its file for an output, and the second preflight for done.
    conda:
        "../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=60,
        gpu=0,
    params:
        code=library("preflight"),
        network=True,
        models=lambda wildcards: [
            model_spec(as_model(name)) for name in used_models(config)
        ],
        demands=lambda wildcards: {
            name: model_demands(as_model(name)) for name in used_models(config)
        },
        texts=lambda wildcards: [
            text_spec(SimpleNamespace(text=name)) for name in used_texts(config)
        ],
        facts=lambda wildcards: {
            name: facts_files(SimpleNamespace(facts=name))
            for name in used_facts(config)
        },
        inputs="results/inputs",
    script:
        "../workflow_scripts/preflight.py"
