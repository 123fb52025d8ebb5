"""Rule `select_copying_sets`."""

from neuronlab.copying_sets import select_copying_sets
from neuronlab.jobs import job

with job(snakemake) as run:
    select_copying_sets(
        selection=snakemake.input.selection,
        neurons=snakemake.input.neurons,
        heads=snakemake.input.heads,
        head_neurons=snakemake.input.head_neurons,
        sets=snakemake.output.sets,
        variants=snakemake.output.variants,
        names=snakemake.params.names,
        induction_driven=snakemake.params.induction_driven,
        replacements=snakemake.params.replacements,
        doses=snakemake.params.doses,
        dose_controls=snakemake.params.dose_controls,
        uniform=snakemake.params.uniform,
        norm_matched=snakemake.params.norm_matched,
        synthetic=snakemake.params.synthetic,
        neighbours=snakemake.params.neighbours,
        seed=snakemake.params.seed,
        provenance=run.provenance,
    )
