"""What a cluster run needs to know: which rules run beside Snakemake itself, and how job arrays are submitted.

Needs: all rules. Makes nothing. Runs on one machine are not affected.
"""

from neuronlab.slurm_arrays import become_member, mend_arrays

# Seconds each and in great number: not worth a cluster's job. Downloads need the network, which nodes often lack.
LOCAL_PREFIXES = ("draw_", "overlay_", "write_", "fetch_")
LOCAL_RULES = (
    "make_demo_world",
    "read_facts",
    "filter_answers",
    "select_neurons",
    "select_copying_sets",
    "compare_copying",
    "compare_published_copying",
)

# The directive takes names written out, and there are dozens of figures; this is what it calls.
RULE_NAMES = [each.name for each in workflow.rules]
workflow.localrules(
    *(
        name
        for name in RULE_NAMES
        if name.startswith(LOCAL_PREFIXES) or name in LOCAL_RULES
    )
)

# Where a run is started: Snakemake has loaded its plugins before it reads these lines. In a job of an array: before
# it has begun with anything.
mend_arrays(sys.modules.get("snakemake_executor_plugin_slurm"))
become_member()
