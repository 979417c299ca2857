"""Trials that share a GPU by memory. torch.cuda and NVML are played; workers, pipes and studies are real."""

import contextlib
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import cloudpickle
import pytest
import trainings
from launching import Run

from mlflow_hpo import ConfigError, Study
from mlflow_hpo.launchers import gpu_gauge
from mlflow_hpo.launchers.base import Cause, Ended, Reported, Sampled
from mlflow_hpo.launchers.gpu_gauge import CONTEXT, GpuGauge, GpuMemory
from mlflow_hpo.launchers.gpu_sharing import GpuSharing
from mlflow_hpo.launchers.local import LocalLauncher
from mlflow_hpo.launchers.mps import by_mps, mps_in_words, mps_pipes
from mlflow_hpo.launchers.slots import make_slots

cloudpickle.register_pickle_by_value(sys.modules[__name__])

GB = 10**9
TOTAL = 10 * GB
PEAK = "system/gpu_memory_peak_megabytes"


def memory(peak, total=TOTAL):
    return GpuMemory(peak, 0, total)


# --- who is admitted


def test_one_trial_begins_on_each_gpu_until_a_need_is_known():
    sharing = GpuSharing(0.9)
    assert sharing.has_room("0", 0, 0)
    assert not sharing.has_room("0", 1, 0)
    sharing.needed("0", memory(3 * GB))
    assert [sharing.has_room("0", running, 0) for running in range(4)] == [True, True, True, False]
    assert [sharing.has_room("1", running, 0) for running in range(2)] == [True, False]  # how large is it?
    sharing.needed("1", memory(1, 4 * GB))
    assert not sharing.has_room("1", 1, 0)  # what is needed on one is needed on all
    sharing.needed("1", memory(1, 7 * GB))
    assert sharing.has_room("1", 1, 0)


def test_the_greediest_counts_and_so_does_what_idle_workers_hold():
    sharing = GpuSharing(1)
    for need in (2, 5, 1):
        sharing.needed("0", memory(need * GB))
    assert sharing.has_room("0", 1, 0)
    assert not sharing.has_room("0", 1, 1)
    assert not sharing.has_room("0", 2, 0)
    sharing.needed("0", memory(2 * TOTAL))
    assert sharing.has_room("0", 0, TOTAL)  # it waits for nothing


def test_without_a_known_need_as_many_share_as_there_are_workers(caplog):
    sharing = GpuSharing(0.9)
    for _ in range(2):
        sharing.untold()
    assert sharing.has_room("0", 7, 0)
    assert len(caplog.records) == 1
    sharing.needed("0", memory(6 * GB))  # another one does tell
    assert not sharing.has_room("0", 1, 0)


@pytest.mark.parametrize("fraction", [0, 1.01, -1, float("nan"), "most", True])
def test_the_fraction_is_checked(fraction, monkeypatch):
    keys = {"metric": "loss", "mode": "min", "max_resource": 1}
    with pytest.raises(ConfigError, match="^max_memory_fraction: must be"):
        GpuSharing(fraction)
    with pytest.raises(ConfigError, match="^max_memory_fraction: "):
        Study(trainings.quick, trainings.SPACE, max_memory_fraction=fraction, **keys)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    launcher = {"name": "local", "max_memory_fraction": fraction}
    with pytest.raises(ConfigError, match=r"^launcher.max_memory_fraction: must be"):
        Study(trainings.quick, trainings.SPACE, launcher=launcher, **keys)


def test_no_other_launcher_takes_the_fraction():
    keys = {"metric": "loss", "mode": "min", "max_resource": 1}
    with pytest.raises(ConfigError, match=r"^launcher.max_memory_fraction: is no option of packed"):
        Study(trainings.quick, trainings.SPACE, launcher="packed", max_memory_fraction=0.5, **keys)


# --- what a worker measures


class Cuda:
    """torch.cuda of a process that has used a GPU."""

    def __init__(self, reserved=0, peak=0):
        self.reserved, self.peak = reserved, peak
        self.in_use = 0

    def is_initialized(self):
        return True

    def reset_peak_memory_stats(self, device):
        self.peak = self.reserved

    def reserve(self, amount):
        self.reserved += amount
        self.peak = max(self.peak, self.reserved)

    def memory_reserved(self, device):
        return self.reserved

    def max_memory_reserved(self, device):
        return self.peak

    def empty_cache(self):
        self.reserved = self.in_use

    def get_device_properties(self, device):
        return SimpleNamespace(uuid="4-2", total_memory=TOTAL)


@pytest.fixture
def cuda(monkeypatch):
    cuda = Cuda(reserved=2 * GB, peak=7 * GB)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    return cuda


def test_a_peak_is_that_of_a_job_with_what_cuda_itself_takes(cuda, monkeypatch):
    uses = {"GPU-4-2": 2 * GB + 123}
    monkeypatch.setattr(gpu_gauge, "used_here", uses.get)
    gauge = GpuGauge("cuda:0")
    assert gauge.read() == GpuMemory(2 * GB + 123, 2 * GB + 123, TOTAL)
    cuda.reserve(GB)
    uses["GPU-4-2"] = 2 * GB + 500  # asked before the training took more: it does not fit, and does not count
    assert gauge.read() == GpuMemory(3 * GB + 123, 3 * GB + 123, TOTAL)
    del uses["GPU-4-2"]
    gauge.release()
    assert gauge.read() == GpuMemory(3 * GB + 123, 123, TOTAL)


def test_what_nvml_does_not_tell_is_assumed(cuda, monkeypatch):
    monkeypatch.setattr(gpu_gauge, "used_here", lambda uuid: None)
    assert GpuGauge("cuda:0").read() == GpuMemory(2 * GB + CONTEXT, 2 * GB + CONTEXT, TOTAL)


def test_a_broken_gpu_breaks_nothing_else(cuda, monkeypatch):
    def broken(*_):
        raise RuntimeError("CUDA error: device-side assert triggered")

    for name in ("reset_peak_memory_stats", "memory_reserved", "empty_cache"):
        monkeypatch.setattr(cuda, name, broken)
    gauge = GpuGauge("cuda:0")
    gauge.release()
    assert gauge.read() is None


def test_who_uses_no_gpu_tells_nothing(cuda, monkeypatch):
    assert GpuGauge("cpu").read() is None
    monkeypatch.setattr(cuda, "is_initialized", lambda: False)
    assert GpuGauge("cuda:0").read() is None
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace())  # is being imported
    assert GpuGauge("cuda:0").read() is None
    monkeypatch.delitem(sys.modules, "torch")
    assert GpuGauge("cuda:0").read() is None
    assert "torch" not in sys.modules


class Nvml:
    """pynvml of a machine where some processes use a GPU."""

    class NVMLError(Exception):
        pass

    def __init__(self, clients, mps=None):
        self.clients, self.mps = clients, mps
        self.open = 0

    def nvmlInit(self):
        self.open += 1

    def nvmlShutdown(self):
        self.open -= 1

    def nvmlDeviceGetHandleByUUID(self, uuid):
        if uuid != "GPU-4-2":
            raise self.NVMLError
        return uuid

    def nvmlDeviceGetComputeRunningProcesses(self, handle):
        return [SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in self.clients.items()]

    def nvmlDeviceGetMPSComputeRunningProcesses(self, handle):
        if self.mps is None:
            raise self.NVMLError
        return [SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in self.mps.items()]


@pytest.mark.parametrize(
    ("nvml", "uuid", "used"),
    [
        (Nvml({1: 5, os.getpid(): 7}), "GPU-4-2", 7),
        (Nvml({1: 5}, {os.getpid(): 8}), "GPU-4-2", 8),
        (Nvml({1: 5}), "GPU-4-2", None),  # in a container, processes have other numbers outside
        (Nvml({os.getpid(): None}), "GPU-4-2", None),
        (Nvml({os.getpid(): 7}), "GPU-of-a-mig", None),
    ],
)
def test_nvml_is_asked_for_this_process(monkeypatch, nvml, uuid, used):
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    assert gpu_gauge.used_here(uuid) == used
    assert nvml.open == 0


# --- a launcher whose workers play CUDA


def on_gpu(trial):
    """Reserve what the configuration says, and train until told to end."""
    needs = trial.params["needs"]
    if needs == "nothing":
        raise ValueError("fails before it uses the GPU")
    if needs != "no gpu":
        cuda = Cuda()
        cuda.reserve(int(needs * GB) - CONTEXT)
        if trial.params.get("keeps"):
            cuda.in_use = cuda.reserved
        sys.modules["torch"] = SimpleNamespace(cuda=cuda)
    if trial.params.get("lacks"):
        raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
    for epoch in trial.epochs():
        trial.report(epoch, loss=1.0)


@pytest.fixture
def one_gpu(monkeypatch):
    monkeypatch.setattr("mlflow_hpo.launchers.slots.visible_gpus", lambda: ["0"])


class SharedRun(Run):
    make = LocalLauncher  # of one GPU

    def begin(self, trial_id, needs, **params):
        self.submit(trial_id, {"needs": needs, **params}, stop=1_000_000)

    @property
    def free(self):
        return [slot.number for slot in self.launcher._free_slots()]

    def until_report_of(self, trial_id):
        """Leaves the last report unanswered, so that the training waits."""
        return self.until(lambda event: isinstance(event, Reported) and event.trial_id == trial_id)

    def until_sampled(self, trial_id):
        """Answers reports until a sample that was taken behind the first one."""
        self.launcher.reply(trial_id, go_on=True, best=False)
        return self.until(lambda event: isinstance(event, Sampled) and event.trial_id == trial_id)

    def until_end_of(self, trial_id):
        events = self.until(lambda event: isinstance(event, Ended) and event.trial_id == trial_id)
        return next(event for event in events if isinstance(event, Ended) and event.trial_id == trial_id)


@pytest.fixture
def run(tmp_path, one_gpu):
    with contextlib.closing(SharedRun(tmp_path, on_gpu, workers=3)) as run:
        yield run


def test_others_follow_when_the_first_has_trained_an_epoch_as_far_as_memory_goes(run):
    launcher = run.launcher
    run.begin(0, 4)
    assert launcher.free_slot is None
    run.until_report_of(0)
    *_, sample = run.until_sampled(0)
    assert sample.metrics[PEAK] == 4000
    run.begin(1, 1.5, keeps=True)
    assert launcher.free_slot is None  # of 10 GB 9 may be used, and each may need 4
    run.until_report_of(1)
    launcher.reply(1, go_on=False, best=False)
    run.until_end_of(1)
    assert run.free == [1]  # a worker that keeps data on the GPU goes on with those
    run.begin(2, 1.5)
    run.until_report_of(2)
    launcher.reply(2, go_on=False, best=False)
    run.until_end_of(2)
    assert run.free == [1, 2]
    run.begin(3, 1)
    launcher.kill(3, "enough")
    assert launcher.free_slot is None  # as long as its process may be there
    assert run.until_end_of(3).reason == "enough"
    assert run.free == [1, 2]


def test_a_first_job_that_fails_before_it_trains_lets_the_next_one_try_alone(run):
    for trial_id in range(2):
        run.begin(trial_id, "nothing")
        assert run.launcher.free_slot is None
        run.until_end_of(trial_id)
    run.begin(2, 1)
    assert run.launcher.free_slot is None


def test_a_job_that_lacked_memory_tells_what_it_had(run):
    run.begin(0, 6, lacks=True)
    assert run.until_end_of(0).cause is Cause.RESOURCES
    run.begin(1, 1)
    run.until_report_of(1)
    run.until_sampled(1)
    assert run.launcher.free_slot is None


def test_trainings_without_torch_wait_for_no_memory(run):
    run.begin(0, "no gpu")
    assert run.launcher.free_slot is None
    run.until_report_of(0)
    run.until_sampled(0)
    run.begin(1, "no gpu")
    run.begin(2, "no gpu")


def test_a_trial_that_has_its_gpu_for_itself_waits_for_nobody(monkeypatch, tmp_path):
    monkeypatch.setattr("mlflow_hpo.launchers.slots.visible_gpus", lambda: ["0", "1"])
    with contextlib.closing(SharedRun(tmp_path, on_gpu, workers=2)) as run:
        run.begin(0, 9)
        run.begin(1, 9)


# --- CUDA MPS


@pytest.fixture
def daemon(tmp_path, monkeypatch):
    (tmp_path / "control").touch()
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", str(tmp_path))
    monkeypatch.delenv("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", raising=False)
    return str(tmp_path)


@pytest.mark.parametrize(("each", "share"), [(0.25, "25"), (1 / 3, "34"), (0.07, "7")])
def test_with_mps_trials_get_their_share_of_the_processors(daemon, each, share):
    slots = by_mps(make_slots(2, ["0"], 4, each))
    assert [slot.env["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] for slot in slots] == [share] * 2
    assert {slot.env["CUDA_MPS_PIPE_DIRECTORY"] for slot in slots} == {daemon}
    assert {slot.env["CUDA_VISIBLE_DEVICES"] for slot in slots} == {"0"}
    assert mps_in_words(slots) == f"CUDA MPS runs: trials that share a GPU get {share}% of it each"


def test_the_users_own_share_stands(daemon, monkeypatch):
    monkeypatch.setenv("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", "80")
    slots = by_mps(make_slots(2, ["0"], 4, 0.5))
    assert "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE" not in slots[0].env
    assert "get 80% of it" in mps_in_words(slots)


@pytest.mark.parametrize(("gpus", "each"), [(["0", "1"], None), (["0", "1"], 1), (["0", "1"], 0), ([], None)])
def test_who_shares_nothing_needs_no_mps(daemon, gpus, each):
    slots = make_slots(2, gpus, 4, each)
    assert by_mps(slots) == slots
    assert mps_in_words(slots) == ""


def test_no_daemon_no_mps(daemon):
    Path(daemon, "control").unlink()
    slots = make_slots(2, ["0"], 4, 0.5)
    assert mps_pipes() is None
    assert by_mps(slots) == slots


# --- a study


def fails_at_first(trial):
    if trial.params["x"] < 0:
        raise ValueError("fails before it uses the GPU")
    assert os.environ["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] == "30"
    on_gpu(trial)


def test_a_study_goes_on_whatever_its_trials_need(store, one_gpu, daemon, caplog):
    caplog.set_level("INFO", "mlflow_hpo")
    space = {
        "x": {"type": "float", "low": -1.0, "high": 1.0},
        "needs": {"type": "categorical", "choices": [1, 9]},
    }
    study = Study(
        fails_at_first,
        space,
        metric="loss",
        mode="min",
        searcher="random",
        scheduler="full",
        max_resource=2,
        trials=6,
        workers=3,
        gpus_per_trial=0.3,
        max_memory_fraction=0.5,
        points=[{"x": -1.0, "needs": 9}, {"x": 1.0, "needs": 9}],
    )
    study.run()
    summary = study.summary()
    assert summary.count("FINISHED") + summary.count("FAILED") == 6
    runs = store.search_runs([store.get_run(study.run_id).info.experiment_id], "tags.`hpo.trial` = '1'")
    assert runs[0].info.status == "FINISHED"
    assert runs[0].data.metrics[PEAK] == 9000
    assert "CUDA MPS runs: trials that share a GPU get 30% of it each" in caplog.messages
