"""Slots: who gets which GPU, and how many CPU threads."""

import pytest
import trainings

from mlflow_hpo import ConfigError, Study
from mlflow_hpo.launchers.packed import process_count
from mlflow_hpo.launchers.slots import make_slots, slots_here

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@pytest.fixture(autouse=True)
def _unset(monkeypatch):
    for name in THREADS:
        monkeypatch.delenv(name, raising=False)


def test_threads_and_gpus_are_divided():
    slots = make_slots(4, ["0", "3", "GPU-x"], 8)
    assert [slot.env["CUDA_VISIBLE_DEVICES"] for slot in slots] == ["0", "3", "GPU-x", "0"]
    assert [slot.gpus for slot in slots] == [0.5, 1.0, 1.0, 0.5]
    assert {slot.device for slot in slots} == {"cuda:0"}
    assert {slot.env["OMP_NUM_THREADS"] for slot in slots} == {"2"}
    [slot] = make_slots(1, [], 8)
    assert (slot.device, slot.gpus, slot.env["OMP_NUM_THREADS"]) == ("cpu", 0.0, "8")


@pytest.mark.parametrize(
    ("of_user", "threads"),
    [
        ({}, (4, 4, 4)),
        ({"OMP_NUM_THREADS": "1"}, (1, 1, 1)),  # the other libraries go by it, too
        ({"OMP_NUM_THREADS": "3", "MKL_NUM_THREADS": "2"}, (3, 2, 3)),
        ({"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "2"}, (1, 1, 2)),
        ({"OMP_NUM_THREADS": "64", "MKL_NUM_THREADS": " 2 "}, (4, 2, 4)),  # a share is what there is
        ({"OMP_NUM_THREADS": "0", "MKL_NUM_THREADS": "-1", "OPENBLAS_NUM_THREADS": "two"}, (4, 4, 4)),
        ({"OMP_NUM_THREADS": ""}, (4, 4, 4)),
    ],
)
def test_who_wants_fewer_threads_has_them(monkeypatch, of_user, threads):
    for name, value in of_user.items():
        monkeypatch.setenv(name, value)
    for slot in make_slots(2, [], 8):
        assert tuple(int(slot.env[name]) for name in THREADS) == threads
        assert slot.env["MKL_CBWR"] == "AUTO,STRICT"


def test_a_trial_that_is_trained_again_has_the_threads_that_it_had(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    [slot] = slots_here(1, 0, threads=3)
    assert {slot.env[name] for name in THREADS} == {"3"}


def test_a_quota_of_the_cpu_bounds_threads_and_processes(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(64)))
    monkeypatch.setattr("mlflow_hpo.launchers.host_cores._quotas", lambda *_: iter([8.0]))
    assert {slot.env["OMP_NUM_THREADS"] for slot in slots_here(2, 0)} == {"4"}
    assert process_count(16, 0) == 8


def test_products_round_alike_unless_the_user_wants_them_otherwise(monkeypatch):
    monkeypatch.delenv("MKL_CBWR", raising=False)
    assert make_slots(1, [], 8)[0].env["MKL_CBWR"] == "AUTO,STRICT"
    monkeypatch.setenv("MKL_CBWR", "AVX2")
    assert make_slots(1, [], 8)[0].env["MKL_CBWR"] == "AVX2"


@pytest.mark.parametrize(
    ("each", "workers", "seen"),
    [
        (0.25, 8, ["0", "1"] * 4),
        (0.3, 6, ["0", "1"] * 3),
        (0.5, 3, ["0", "1", "0"]),
        (1, 2, ["0", "1"]),
        (2, 1, ["0,1"]),
    ],
)
def test_each_trial_gets_what_it_is_granted(each, workers, seen):
    slots = make_slots(workers, ["0", "1"], 8, each)
    assert [slot.env["CUDA_VISIBLE_DEVICES"] for slot in slots] == seen
    assert {slot.gpus for slot in slots} == {each}
    assert {slot.device for slot in slots} == {"cuda:0"}


def test_no_gpu_is_a_choice_too():
    [slot] = make_slots(1, ["0"], 8, 0)
    assert (slot.device, slot.gpus, slot.env["CUDA_VISIBLE_DEVICES"]) == ("cpu", 0.0, "")


@pytest.mark.parametrize(
    ("each", "workers", "gpus", "problem"),
    [
        (
            0.25,
            9,
            ["0", "1"],
            r"for all workers \(9\): of the 2 GPUs here, 8 trials get 0.25 each",
        ),
        (2, 2, ["0", "1", "2"], r"of the 3 GPUs here, 1 trials get 2 each"),
        (1, 1, [], "must be 0 or left out, as no GPU is visible here, got 1"),
    ],
)
def test_too_few_gpus_are_told_before_anything_begins(each, workers, gpus, problem):
    with pytest.raises(ConfigError, match=f"gpus_per_trial: .*{problem}"):
        make_slots(workers, gpus, 8, each)


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ({"gpus_per_trial": 1.5}, "gpus_per_trial: must be a share of one GPU or a whole number, got 1.5"),
        ({"gpus_per_trial": -1}, "gpus_per_trial: .*greater than or equal to 0"),
        ({"gpus_per_trial": 0.5}, "launcher.gpus_per_trial: must be 0 or left out"),
        ({"launcher": {"name": "local", "gpus": 1}}, "launcher.gpus: is no option of local"),
    ],
)
def test_a_study_is_checked(monkeypatch, keys, problem):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(ConfigError, match=problem):
        Study(trainings.quick, trainings.SPACE, metric="loss", mode="min", max_resource=1, **keys)
