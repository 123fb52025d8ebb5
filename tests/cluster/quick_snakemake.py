"""`snakemake`, but jobs are looked at every second: the plugin waits ten seconds longer after every look in vain."""

import sys

import snakemake_executor_plugin_slurm
from snakemake.cli import main

snakemake_executor_plugin_slurm.Executor.next_seconds_between_status_checks = property(
    lambda executor: 1, lambda executor, seconds: None
)

if __name__ == "__main__":
    sys.exit(main())
