"""The Ray launcher, on clusters of several nodes that all run on this machine."""

import contextlib
import logging
import uuid
from pathlib import Path

import fault_suite
import pytest
import trainings
from launcher_contract import LauncherContract
from launching import FolderServices, NamedRun

from mlflow_hpo import StudyError
from mlflow_hpo.launchers.base import Cause, CheckpointStored, Ended, Outcome, Reported
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


class RayRun(NamedRun):
    """Jobs of `trainings` on the cluster; the keywords are options of the launcher."""

    def __init__(self, folder, workers=1, **options):
        self.make = lambda workers: RayLauncher(workers, **options)
        super().__init__(folder, workers)


@pytest.fixture
def start_jobs(cluster, tmp_path):
    """Start a Ray launcher with options; it is closed at the end."""
    with contextlib.ExitStack() as stack:
        yield lambda *args, **options: stack.enter_context(
            contextlib.closing(RayRun(tmp_path, *args, **options))
        )


class TestContract(LauncherContract):
    @pytest.fixture(scope="class")
    @classmethod
    def run(cls, cluster, tmp_path_factory):
        with contextlib.closing(RayRun(tmp_path_factory.mktemp("contract"))) as run:
            yield run


def test_a_slot_waits_for_its_node_and_a_trial_goes_on_elsewhere_when_it_is_lost(
    cluster, start_jobs, wait_for
):
    run = start_jobs(resources_per_trial={"CPU": 1, "late": 1})
    assert run.launcher.wait(1.0) == []
    assert run.launcher.free_slot is None
    wait_for(lambda: {"CPU": 1.0, "late": 1.0} in demand(cluster))  # so an autoscaler knows what is wanted

    first = cluster.add_node(num_cpus=1, resources={"late": 1})
    run.begin("paced", stop=99)
    run.until(lambda event: isinstance(event, Reported) and event.epoch == 3)
    run.launcher.interrupt(run.trial_id)
    run.launcher.reply(run.trial_id, go_on=True, best=False)
    _, events = run.to_end()
    [reached] = [event.epoch for event in events if isinstance(event, CheckpointStored)]
    run.go_on("paced", start=reached, stop=99)
    run.until(lambda event: isinstance(event, Reported))
    cluster.remove_node(first, allow_graceful=False)
    end, _ = run.to_end()
    assert (end.outcome, end.cause) == (Outcome.FAILED, Cause.LOST)
    assert end.reason.startswith("the worker process died: its Ray ")

    second = cluster.add_node(num_cpus=1, resources={"late": 1})
    run.go_on("paced", start=reached, stop=reached + 2)
    end, events = run.to_end()
    assert end.outcome is Outcome.COMPLETED
    assert [event.epoch for event in events if isinstance(event, Reported)] == [reached + 1, reached + 2]
    run.close()
    cluster.remove_node(second)


def demand(cluster):
    """What an autoscaler is told to be waited for."""
    from ray.autoscaler.v2.sdk import get_cluster_status

    status = get_cluster_status(cluster.address)
    waiting = status.resource_demands.ray_task_actor_demand
    return [dict(bundle.bundle) for each in waiting for bundle in each.bundles_by_count]


def test_trials_share_a_gpu_by_its_fractions(start_jobs):
    run = start_jobs(3, resources_per_trial={"CPU": 0.25, "GPU": 0.5, "place": 0.5})
    assert {(slot.device, slot.gpus) for slot in run.launcher.slots} == {("cuda:0", 0.5)}
    while not all(place.ready for place in run.launcher._places.values()):
        run.launcher.wait(1.0)
    for _ in range(3):
        run.begin("tells_its_device", stop=1)
    seen = []
    while len(seen) < 3:
        events = run.until(lambda event: isinstance(event, Ended))
        seen += [event.metrics for event in events if isinstance(event, Reported)]
    assert [metrics["cuda"] for metrics in seen] == [0.0, 0.0, 0.0]
    assert {metrics["threads"] for metrics in seen} == {1.0}
    assert len({metrics["node"] for metrics in seen}) == 2, "two on one GPU, one on the other"


def test_slots_without_jobs_give_back_what_they_hold_until_there_is_more_to_do(
    start_jobs, monkeypatch, wait_for
):
    monkeypatch.setattr("mlflow_hpo.launchers.ray.IDLE", 0.2)
    run = start_jobs(2, resources_per_trial={"CPU": 0, "place": 2})
    run.launcher._release = lambda: None
    wait_for(
        lambda: run.launcher.wait(1.0) == [] and all(each.ready for each in run.launcher._places.values())
    )
    del run.launcher._release
    wait_for(lambda: run.launcher.wait(0.3) == [] and len(run.launcher._places) == 1)
    wait_for(lambda: ray.available_resources().get("place") == 2)
    run.begin("quick", stop=2)
    assert len(run.launcher._places) == 2, "there may be more to do"
    end, _ = run.to_end()
    assert end.outcome is Outcome.COMPLETED


def test_credentials_reach_the_trials_and_no_log(cluster, start_jobs, monkeypatch):
    secret = uuid.uuid4().hex
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
    monkeypatch.setenv("MY_TOKEN", secret)
    monkeypatch.setenv("NOT_NAMED", secret)
    run = start_jobs(env=["MY_TOKEN"])
    run.begin("counts_variables", {"value": secret}, stop=1)
    _, events = run.to_end()
    [seen] = [event.metrics["seen"] for event in events if isinstance(event, Reported)]
    assert seen == 2, "AWS_SECRET_ACCESS_KEY and MY_TOKEN"
    logs = Path(cluster.head_node.get_logs_dir_path())
    assert "two of them" in "".join(path.read_text() for path in logs.glob("worker-*.out"))
    assert [
        path.name for path in logs.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()
    ] == []


def test_many_jobs_leave_no_references_and_no_actors(start_jobs):
    run = start_jobs()
    for turn in range(60):
        run.begin("with_checkpoints", stop=2)
        run.to_end()
        run.launcher.forget(run.trial_id)
        if turn == 9:
            before = references()
    assert references() <= before
    assert run.launcher._hosts == {}
    assert len(living_actors()) == 1


def references():
    return len(ray._private.worker.global_worker.core_worker.get_all_reference_counts())


def living_actors():
    return [each for each in ray._private.state.actors().values() if each["State"] == "ALIVE"]


class AwayServices(FolderServices):
    def check(self):
        raise StudyError("artifact store: file:///nowhere is no folder on this machine")


def test_a_node_that_does_not_reach_the_stores_is_told_before_the_first_trial(cluster, tmp_path):
    launcher = RayLauncher(1)
    with contextlib.closing(launcher):
        launcher.start(trainings.quick, AwayServices(), tmp_path)
        with pytest.raises(
            StudyError, match="no worker can start on the Ray cluster: .*is no folder on this"
        ):
            while launcher.free_slot is None:
                launcher.wait(1.0)


def test_faults_and_the_loss_of_a_node_lose_nothing_and_leave_nothing_behind(
    cluster, store, monkeypatch, request, wait_for
):
    trials, pause = (200, 1.0) if request.config.getoption("full_size") else (20, 4.0)
    mark = uuid.uuid4().hex
    monkeypatch.setenv("FAULTS", mark)
    cluster.add_node(num_cpus=1, resources={"place": 2}, object_store_memory=80_000_000)
    launcher = {"name": "ray", "resources_per_trial": {"CPU": 0.5, "place": 1}, "env": ["FAULTS"]}
    study = fault_suite.search(trials, launcher=launcher)

    killer = fault_suite.Killer(
        lambda random: random.choice(fault_suite.relatives(mark)).kill(), pause, seed=1
    )
    wait, close, left, lost = study._launcher.wait, study._launcher.close, [], []

    def wait_and_lose_a_node(timeout):
        if not lost and killer.killed >= 2:
            lost.append(node_at_work(cluster))
            cluster.remove_node(lost[0], allow_graceful=False)
        return wait(timeout)

    def look_and_close():
        killer.stop()
        left.extend(each.job for each in study._launcher._places.values() if each.job is not None)
        close()

    monkeypatch.setattr(study._launcher, "wait", wait_and_lose_a_node)
    monkeypatch.setattr(study._launcher, "close", look_and_close)
    killer.start()
    fault_suite.run(study, killer)
    assert left == [], "a slot is leaked"
    wait_for(lambda: fault_suite.relatives(mark) == [])
    assert lost, "no node was removed"
    fault_suite.check(store, study, trials)
    assert Path("full").exists(), "the disk was never full"
    ray.init(address=cluster.address, logging_level=logging.WARNING)
    try:
        wait_for(lambda: living_actors() == [] and free() == free(ray.cluster_resources()))
    finally:
        ray.shutdown()


def free(resources=None):
    """What of the resources that trials take is free."""
    resources = ray.available_resources() if resources is None else resources
    return {name: resources.get(name) for name in ("CPU", "GPU", "place")}


def node_at_work(cluster):
    """One of the nodes that have trials."""
    there = {actor["Address"]["NodeID"] for actor in living_actors()}
    return next(node for node in cluster.worker_nodes if node.node_id in there)
