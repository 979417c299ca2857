"""Every kind of budget pauses what runs when it is spent, and more of it lets the study go on."""

from types import SimpleNamespace

import pytest
import trainings
from crashes import told

from mlflow_hpo import Study
from mlflow_hpo.config import Budget
from mlflow_hpo.launchers.base import Slot
from mlflow_hpo.ledger import Ledger
from mlflow_hpo.optimizer import Job
from mlflow_hpo.tracking.reader import read_study


@pytest.fixture
def clock(monkeypatch):
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr("mlflow_hpo.ledger.time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


def start(ledger, trial_id, gpus):
    return ledger.started(Job(trial_id, {}, 0, 9, 0, 0), Slot(trial_id, "cuda:0", gpus))


@pytest.mark.parametrize(
    ("limits", "hours", "spent"),
    [
        ({"hours": 2}, 2, "2 hours"),
        ({"gpu_hours": 6}, 4, "6 gpu_hours"),
        ({"cost": 9, "price_per_gpu_hour": 3}, 2, "9 cost"),
        ({"hours": 3, "gpu_hours": 3, "epochs": 100}, 2, "3 gpu_hours"),
    ],
)
def test_running_jobs_spend_time_and_the_share_of_a_gpu_that_they_hold(clock, limits, hours, spent):
    ledger = Ledger(Budget(**limits), slots=2)
    start(ledger, 0, 1.0)
    start(ledger, 1, 0.5)
    clock.now += hours * 3600 - 1
    assert ledger.exhausted() == ""
    clock.now += 1
    assert ledger.exhausted() == f"budget of {spent} is spent"


def test_what_ended_and_what_was_spent_before_a_resume_counts(clock):
    ledger = Ledger(Budget(gpu_hours=10, cost=100, price_per_gpu_hour=2), slots=2)
    ledger.restore(epochs=7, seconds=3600, gpu_hours=4)
    start(ledger, 0, 1.0)
    ledger.ended(0, 3600)
    clock.now += 1800
    assert ledger.spent() == {
        "epochs": (7, None),
        "hours": (1.5, None),
        "gpu_hours": (5, 10),
        "cost": (10, 100),
    }


def test_epochs_that_are_trained_again_are_spent_and_no_news(clock):
    ledger = Ledger(Budget(epochs=6), slots=2)
    start(ledger, 0, 0.0)
    assert [ledger.trained(0, epoch) for epoch in (1, 2, 3)] == [True] * 3
    ledger.ended(0, 1.0)
    start(ledger, 0, 0.0)  # from the checkpoint of epoch 1
    assert [ledger.trained(0, epoch) for epoch in (2, 3)] == [False] * 2
    assert (ledger.epochs, ledger.exhausted()) == (5, "")
    assert ledger.trained(0, 4)
    assert ledger.exhausted() == "budget of 6 epochs is spent"


@pytest.mark.parametrize(
    ("budget", "more", "reason"),
    [
        ({"hours": 7}, {"hours": 70}, "budget of 7 hours is spent"),
        ({"gpu_hours": 7}, {"gpu_hours": 70}, "budget of 7 gpu_hours is spent"),
        (
            {"cost": 14, "price_per_gpu_hour": 2, "epochs": 9},
            {"cost": 140, "price_per_gpu_hour": 2, "epochs": 90},
            "budget of 14 cost is spent",
        ),
    ],
)
def test_a_spent_budget_pauses_what_runs_and_a_larger_one_goes_on(store, monkeypatch, budget, more, reason):
    # each epoch takes an hour of one GPU, which two workers share
    monkeypatch.setattr("mlflow_hpo.launchers.slots.visible_gpus", lambda: ["0"])
    monkeypatch.setattr(Ledger, "seconds", property(lambda ledger: 3600.0 * ledger.epochs))
    monkeypatch.setattr(Ledger, "gpu_hours", property(lambda ledger: float(ledger.epochs)))
    study = Study(
        trainings.paced,
        trainings.SPACE,
        metric="loss",
        mode="min",
        searcher="random",
        scheduler="full",
        max_resource=5,
        trials=4,
        workers=2,
        budget=budget,
    )
    study.run()
    parent = store.get_run(study.run_id)
    assert (parent.info.status, parent.data.tags["hpo.stop_reason"]) == ("FINISHED", reason)
    [spent] = {parent.data.metrics["gpu_hours_spent"], parent.data.metrics["epochs_spent"]}
    assert 7 <= spent <= 7 + 2  # each worker may be about to report
    if "cost" in budget:
        assert parent.data.metrics["cost_spent"] == 2 * spent
    name, limit = next(iter(budget.items()))
    used = 2 * spent if name == "cost" else spent
    assert f"{name} {used:g} / {limit:g}" in parent.data.tags["hpo.budget"]
    assert float(parent.data.params[f"hpo.budget.{name}"]) == limit
    experiment = parent.info.experiment_id
    runs = store.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{study.run_id}'")
    paused = [run for run in runs if run.info.status == "SCHEDULED"]
    assert {run.info.status for run in runs} <= {"SCHEDULED", "FINISHED"}
    assert paused
    for run in paused:
        stored = [int(info.path[18:22]) for info in store.list_artifacts(run.info.run_id, "checkpoints")]
        assert max(stored, default=0) == int(run.data.tags["hpo.epochs"])

    Study(trainings.paced, resume=study.run_id, budget=more).run()
    parent = store.get_run(study.run_id)
    assert parent.data.tags["hpo.stop_reason"] == ""
    assert read_study(study.run_id).budget == more
    assert parent.data.metrics["epochs_spent"] == 4 * 5  # nothing is trained twice
    for _, status, _, points in told(store, study.run_id).values():
        assert status == "FINISHED"
        assert points["length"] == [(epoch, epoch) for epoch in range(1, 6)]
    steps = [point.step for point in store.get_metric_history(study.run_id, "gpu_hours_spent")]
    assert steps == list(range(len(steps)))
