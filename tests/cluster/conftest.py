"""Fixtures of the cluster tests: a one-node Slurm, and a small study to run on it and beside it."""

from __future__ import annotations

from collections.abc import Iterator

import one_node_slurm
import pytest
from cluster_project import PARTITIONS, TARGETS, ClusterProject, make_project


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A running one-node Slurm with two GPUs, or a skip that says what is missing."""
    reason = one_node_slurm.reason_against()
    if reason:
        pytest.skip(f"no Slurm cluster for the tests: {reason}")
    with one_node_slurm.running_cluster(tmp_path_factory.mktemp("slurm")):
        yield


@pytest.fixture(scope="session")
def local_run(tmp_path_factory: pytest.TempPathFactory) -> ClusterProject:
    """The study run on this machine, without Slurm. Look, don't touch."""
    project = make_project(tmp_path_factory.mktemp("local"))
    project.run_locally()
    return project


@pytest.fixture(scope="session")
def slurm_run(
    cluster: None, tmp_path_factory: pytest.TempPathFactory
) -> tuple[ClusterProject, one_node_slurm.Recorder]:
    """The study run undisturbed through the profile, and what Slurm showed meanwhile. Look, don't touch.

    Jobs choose among the profile's partitions, which this cluster has, too.
    """
    project = make_project(tmp_path_factory.mktemp("slurm_run"))
    with one_node_slurm.Recorder().recording() as recorder:
        project.run_on_slurm(*TARGETS, "--slurm-partition-config", str(PARTITIONS))
    return project, recorder
