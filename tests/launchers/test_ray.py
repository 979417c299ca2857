"""The Ray launcher, on clusters of several nodes that all run on this machine."""

import contextlib

import pytest
from launcher_contract import LauncherContract
from launching import NamedRun

from mlflow_hpo.launchers.ray import RayLauncher

ray = pytest.importorskip("ray")


@pytest.fixture(scope="module")
def cluster():
    """Three nodes, of one CPU each; two of them are for trials."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("RAY_AUTH_MODE", "disabled")
        head = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 80_000_000}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        try:
            for _ in range(2):
                cluster.add_node(
                    num_cpus=1, num_gpus=1, resources={"place": 2}, object_store_memory=80_000_000
                )
            patched.setenv("RAY_ADDRESS", cluster.address)
            yield cluster
        finally:
            cluster.shutdown()


class TestContract(LauncherContract):
    @pytest.fixture(scope="class")
    @classmethod
    def run(cls, cluster, tmp_path_factory):
        with contextlib.closing(RayRun(tmp_path_factory.mktemp("contract"))) as run:
            yield run


class RayRun(NamedRun):
    make = RayLauncher
