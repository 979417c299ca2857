"""The Ray launcher, on clusters of several nodes that all run on this machine."""

import contextlib
import importlib.util
import logging
import sys
import uuid
from pathlib import Path
from types import SimpleNamespace

import fault_suite
import pytest
import trainings
from crashes import told
from launcher_contract import LauncherContract
from launching import FolderServices, NamedRun
from processes import free_port

from mlflow_hpo import ConfigError, Study, StudyError
from mlflow_hpo.launchers.base import Cause, CheckpointStored, Ended, Outcome, Reported, Slot
from mlflow_hpo.launchers.ray import RayLauncher
from mlflow_hpo.launchers.ray_cluster import Cluster, environment
from mlflow_hpo.launchers.ray_host import Orders
from mlflow_hpo.scratch import shared_folder
from mlflow_hpo.tracking.artifacts import check_shared
from mlflow_hpo.tracking.recovery import read_recording

ray = pytest.importorskip("ray")


@pytest.fixture(scope="module")
def cluster():
    """Three nodes, of one CPU each; two of them are for trials."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("RAY_AUTH_MODE", "disabled")
        head = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 80_000_000}
        if importlib.util.find_spec("grpc"):
            head["ray_client_server_port"] = free_port()
        cluster = Cluster(initialize_head=True, head_node_args=head)
        try:
            node = {"num_cpus": 1, "num_gpus": 1, "object_store_memory": 80_000_000}
            cluster.pair = [cluster.add_node(resources={"place": 2}, **node) for _ in range(2)]
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
    """On a Ray of its own, which starts sooner than a cluster."""

    @pytest.fixture(scope="class")
    @classmethod
    def run(cls, tmp_path_factory):
        with pytest.MonkeyPatch.context() as patched:
            patched.setenv("RAY_AUTH_MODE", "disabled")
            with contextlib.closing(RayRun(tmp_path_factory.mktemp("contract"), address="local")) as run:
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


def test_a_study_is_driven_from_afar_through_rays_client(cluster, start_jobs):
    pytest.importorskip("grpc")
    port = cluster.head_node._ray_params.ray_client_server_port
    run = start_jobs(address=f"ray://127.0.0.1:{port}")
    run.begin("with_checkpoints", stop=2)
    assert run.to_end()[0].outcome is Outcome.COMPLETED
    run.go_on("dies_for_positive", start=2, stop=4)
    assert run.to_end()[0].reason == "the worker process died: signal SIGKILL"
    run.go_on("with_checkpoints", start=2, stop=3)
    _, events = run.to_end()
    assert [event.metrics["length"] for event in events if isinstance(event, Reported)] == [3.0]


class AwayServices(FolderServices):
    def check(self):
        raise StudyError("artifact store: file:///nowhere is no folder on this machine")


def test_a_connection_that_is_aborted_is_tried_again(cluster, start_jobs, monkeypatch):
    client = pytest.importorskip("ray.util.client.worker")
    begin, aborts = client.Worker.__init__, [1, 2]

    def begin_later(self, *args, **kwargs):
        if aborts:
            aborts.pop()
            raise ConnectionAbortedError("the server has not begun")
        begin(self, *args, **kwargs)

    monkeypatch.setattr(client.Worker, "__init__", begin_later)
    port = cluster.head_node._ray_params.ray_client_server_port
    start_jobs(address=f"ray://127.0.0.1:{port}")
    assert not aborts
    assert ray.is_initialized()


def test_a_connection_that_is_always_aborted_is_an_error(cluster, monkeypatch):
    client = pytest.importorskip("ray.util.client.worker")
    tried = []

    def begin_never(self, *args, **kwargs):
        tried.append(1)
        raise ConnectionAbortedError("the server has not begun")

    monkeypatch.setattr(client.Worker, "__init__", begin_never)
    port = cluster.head_node._ray_params.ray_client_server_port
    with pytest.raises(StudyError, match="launcher.address: cannot use Ray at ray://.*has not begun"):
        Cluster(f"ray://127.0.0.1:{port}", None).connect()
    assert 1 < len(tried) < 10
    assert not ray.is_initialized()


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
    trials, pause = (200, 3.0) if request.config.getoption("full_size") else (20, 4.0)
    cluster.add_node(num_cpus=1, resources={"place": 1}, object_store_memory=80_000_000)
    mark = uuid.uuid4().hex
    monkeypatch.setenv("FAULTS", mark)  # after that: it marks workers, not the processes of the node
    launcher = {"name": "ray", "resources_per_trial": {"CPU": 0.5, "place": 1}, "env": ["FAULTS"]}
    study = fault_suite.search(trials, launcher=launcher)

    killer = fault_suite.Killer(lambda random: random.choice(fault_suite.victims(mark)).kill(), pause, seed=1)
    wait, close, left, lost = study._launcher.wait, study._launcher.close, [], []

    def wait_and_lose_a_node(timeout):
        if not lost and killer.killed >= 2:
            lost.append(cluster.pair[0])  # without it there are only three places, so some trial is there
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


# --- options, without a cluster


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resources_per_trial": 2}, "launcher.resources_per_trial: must be a mapping of resources"),
        ({"resources_per_trial": {"gpu": 1}}, "resources_per_trial.gpu: is not what Ray calls it; .* 'GPU'?"),
        ({"resources_per_trial": {"GPU": 1.5}}, "resources_per_trial.GPU: must be a share of one GPU or a"),
        (
            {"resources_per_trial": {"CPU": -1}},
            "resources_per_trial.CPU: must be a finite number of 0 or more, got -1",
        ),
        (
            {"resources_per_trial": {"tpu": "one"}},
            "resources_per_trial.tpu: must be a finite number of 0 or more, got 'one'",
        ),
        ({"address": 8265}, "launcher.address: must be auto, local, host:port or ray://host:port, got 8265"),
        ({"env": "TOKEN"}, "launcher.env: must be a list of names of environment variables, got 'TOKEN'"),
        ({"env": ["NOT_SET_AT_ALL"]}, "launcher.env: 'NOT_SET_AT_ALL' is not set here"),
        ({"runtime_env": "."}, "launcher.runtime_env: must be a mapping, as Ray has it, got '.'"),
        (
            {"runtime_env": {"env_vars": {"A": "b"}}},
            "launcher.runtime_env.env_vars: is what Ray writes to its",
        ),
        ({"resources": {"CPU": 1}}, "launcher.resources: is no option of ray; .* 'resources_per_trial'?"),
    ],
)
def test_a_wrong_option_is_told_before_anything_starts(options, message):
    launcher = {"name": "ray", **options}
    with pytest.raises(ConfigError, match=message):
        Study(trainings.quick, trainings.SPACE, metric="loss", mode="min", max_resource=3, launcher=launcher)
    assert not ray.is_initialized()


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"launcher: ray needs the extra: pip install 'mlflow-hpo\[ray\]'"):
        Study(trainings.quick, trainings.SPACE, metric="loss", mode="min", max_resource=3, launcher="ray")


def test_variables_go_along_by_name_only(monkeypatch):
    for name in ("MLFLOW_TRACKING_PASSWORD", "AWS_SESSION_TOKEN", "MLFLOW_HPO_SPOOL", "EDITOR", "MY_TOKEN"):
        monkeypatch.setenv(name, "hidden")
    taken = environment(("MY_TOKEN",))
    assert {"MLFLOW_TRACKING_PASSWORD", "AWS_SESSION_TOKEN", "MY_TOKEN"} <= taken.keys()
    assert not {"MLFLOW_HPO_SPOOL", "EDITOR", "PATH"} & taken.keys()
    orders = Orders("study", Slot(0, "cpu", 0.0), None, True, (), ".", environment=taken)
    assert "hidden" not in repr(orders)


def test_where_no_cluster_is_a_local_one_is_begun_and_only_there(monkeypatch):
    asked = []

    class NoRay:
        def is_initialized(self):
            return False

        def init(self, address, **options):
            asked.append(address)
            if address != "local":
                raise ConnectionError("Could not find any running Ray instance")

        def shutdown(self):
            asked.append("shutdown")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("mlflow_hpo.launchers.ray_cluster.the_ray", NoRay)
    cluster = Cluster(None, None)
    cluster.connect()
    assert (asked, cluster.own) == (["auto", "local"], True)
    with pytest.raises(StudyError, match="launcher.address: cannot use Ray at auto: Could not find any"):
        Cluster("auto", None).connect()
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    with pytest.raises(StudyError, match="launcher.address: cannot use Ray at head:6379"):
        Cluster(None, None).connect()


def test_a_ray_of_our_own_will_not_grow_and_others_may(monkeypatch, caplog):
    node = {"Alive": True, "Resources": {"CPU": 2.0}}
    monkeypatch.setattr(
        "mlflow_hpo.launchers.ray_cluster.the_ray", lambda: SimpleNamespace(nodes=lambda: [node])
    )
    cluster = Cluster(None, None)
    cluster.check({"CPU": 1.0, "GPU": 0.5}, 4)
    assert "no node of the Ray cluster can take a trial with {CPU: 1, GPU: 0.5}" in caplog.text
    cluster.own = True
    cluster.check({"CPU": 1.0}, 4)
    assert "workers is 4, but this machine takes 2 trials at a time" in caplog.text
    with pytest.raises(
        ConfigError, match="launcher.resources_per_trial.GPU: must be at most what this machine"
    ):
        cluster.check({"CPU": 1.0, "GPU": 0.5}, 4)


def test_the_folder_of_a_nodes_trials_goes_with_the_last_of_its_hosts():
    name = f"test-{uuid.uuid4().hex}"
    with shared_folder(name) as folder:
        (folder / "mine").touch()
        with shared_folder(name) as same:
            assert (same / "mine").exists()
        assert folder.exists()
    assert not folder.exists()


def test_an_artifact_folder_that_a_machine_lacks_is_named(tmp_path):
    check_shared("s3://bucket/root")
    check_shared(tmp_path.as_uri())
    with pytest.raises(
        StudyError, match="artifact store: file:///.*/lost is no folder on .* all machines share"
    ):
        check_shared((tmp_path / "lost").as_uri())


def test_a_study_runs_on_a_ray_of_its_own_and_stops_it(store, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    place = {"name": "ray", "address": "local", "resources_per_trial": {"CPU": 0.5}}
    keys = {
        "metric": "loss",
        "mode": "min",
        "max_resource": 9,
        "trials": 6,
        "workers": 2,
        "searcher": "random",
    }
    study = Study(
        trainings.logs_by_itself,
        trainings.SPACE,
        scheduler={"name": "asha", "eta": 3},
        launcher=place,
        **keys,
    )
    best = study.run()
    assert not ray.is_initialized()
    runs = told(store, study.run_id)
    assert sorted(runs) == list(range(6))
    for _, status, tags, points in runs.values():
        assert status in ("FINISHED", "KILLED")
        assert points["length"] == [(epoch, epoch) for epoch in range(1, int(tags["hpo.epochs"]) + 1)]
        assert points["by_itself"] == points["length"]
    assert best.resource == 9
    recorded = read_recording(study.run_id).keys["launcher"]
    assert recorded == place
