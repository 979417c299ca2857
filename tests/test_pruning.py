"""`mlflow-hpo prune`: which checkpoints go, which stay, and what a resume makes of it."""

import json
import os
import time

import mlflow
import pytest
import trainings
from click.testing import CliRunner

from mlflow_hpo import tune
from mlflow_hpo.cli import main
from mlflow_hpo.tracking.lease import DRIVER

KEYS = {
    "space": trainings.SPACE, "metric": "loss", "mode": "min", "workers": 1, "max_resource": 9, "trials": 6,
    "searcher": "random", "scheduler": "asha", "keep_checkpoints": "all", "seed": 0,
}  # fmt: skip


def invoke(*arguments, code=0):
    done = CliRunner().invoke(main, ["prune", *arguments])
    assert done.exit_code == code, done.output
    return done.output


def told(*arguments):
    """Return {trial: epochs} of what stays, and of what goes."""
    found = json.loads(invoke(*arguments, "--json"))
    return [
        {
            trial: sorted(each["epoch"] for each in found[name] if each["trial_id"] == trial)
            for trial in trials
        }
        for name in ("kept", "removed")
        for trials in [sorted({each["trial_id"] for each in found[name]})]
    ]


@pytest.fixture
def study(store):
    """A study that a budget has ended, so that trials are paused; its parent run."""
    tune(trainings.with_checkpoints, **KEYS, budget={"epochs": 12})
    [parent] = mlflow.search_runs(
        search_all_experiments=True, filter_string="tags.`hpo.kind` = 'study'", output_format="list"
    )
    return parent


def trials(store, study):
    runs = store.search_runs([study.info.experiment_id], "tags.`hpo.kind` = 'trial'")
    return {int(run.data.tags["hpo.trial"]): run for run in runs}


def stored(store, study):
    """Return {trial: epochs} of what is in the store; the tag says the same."""
    found = {}
    for number, run in trials(store, study).items():
        files = store.list_artifacts(run.info.run_id, "checkpoints")
        epochs = sorted(int(file.path.split("epoch-")[1][:4]) for file in files)
        if said := run.data.tags.get("hpo.checkpoints"):  # of a study that keeps all it is not written
            assert sorted(map(int, json.loads(said))) == epochs
        if epochs:
            found[number] = epochs
    return found


def test_what_goes_and_what_stays(store, study):
    before = stored(store, study)
    paused = {number for number, run in trials(store, study).items() if run.info.status == "SCHEDULED"}
    best = int(study.data.tags["hpo.best_trial"])
    best_epoch = int(trials(store, study)[best].data.tags["hpo.best_epoch"])
    newest = {number: [max(epochs)] for number, epochs in before.items()}
    assert paused
    assert best not in paused or before[best] != newest[best]

    needed = {number: newest[number] for number in paused}
    kept, removed = told(study.info.run_id, "--keep", "none")
    assert kept == needed
    assert {number: sorted([*kept.get(number, []), *removed.get(number, [])]) for number in before} == before
    kept, _ = told(study.info.run_id, "--keep", "best")
    assert kept == needed | {best: sorted({best_epoch, *newest[best]})}
    kept, _ = told(study.info.run_id, "--keep", "last")
    assert kept == newest | {best: sorted({best_epoch, *newest[best]})}
    assert told(study.info.run_id, "--keep", "none", "--also-paused")[0] == {}
    text = invoke(study.info.run_id, "--keep", "last")
    assert "would go: trial " in text
    assert "nothing was changed: --yes removes them" in text
    assert stored(store, study) == before, "nothing was changed so far"

    text = invoke(study.info.run_id, "--keep", "none", "--yes")
    assert f"stays: {len(needed)} checkpoints of {len(needed)} trials" in text
    assert stored(store, study) == needed
    assert store.get_run(study.info.run_id).data.tags[DRIVER] == ""
    assert told(study.info.run_id, "--keep", "none")[1] == {}

    tune(trainings.with_checkpoints, resume=study.info.run_id, budget={})
    lengths = {
        number: [each.value for each in store.get_metric_history(run.info.run_id, "length")]
        for number, run in trials(store, study).items()
    }
    assert len(lengths) == 6
    assert all(curve == list(range(1, len(curve) + 1)) for curve in lengths.values()), "none began again"


def test_a_killed_driver_has_not_written_which_epoch_is_the_best(store):
    keys = {**KEYS, "trials": 1, "scheduler": "full", "max_resource": 4}
    tune(trainings.overfits, **keys)
    [run] = store.search_runs(["1"], "tags.`hpo.kind` = 'trial'")
    store.update_run(run.info.run_id, status="RUNNING")
    for tag in ("hpo.epochs", "hpo.best_epoch"):
        store.delete_tag(run.info.run_id, tag)
    assert told(run.data.tags["mlflow.parentRunId"], "--keep", "best")[0] == {0: [2, 4]}


def test_without_what_they_need_paused_trials_begin_again(store, study):
    invoke(study.info.run_id, "--keep", "none", "--also-paused", "--yes")
    assert stored(store, study) == {}
    best = tune(trainings.with_checkpoints, resume=study.info.run_id, budget={})
    assert best.resource == 9


def test_a_study_at_work_keeps_its_checkpoints(store, study):
    before = stored(store, study)
    driver = {"id": "x", "host": "elsewhere", "pid": os.getpid(), "started": 0, "until": time.time() + 60}
    store.set_tag(study.info.run_id, DRIVER, json.dumps(driver))
    text = invoke(study.info.run_id, "--keep", "none", "--yes", code=1)
    assert text.startswith(
        f"error: study {study.info.run_id} is driven by process {os.getpid()} on elsewhere"
    )
    assert stored(store, study) == before


@pytest.mark.parametrize("keep", ["all", "best:0", "x", ""])
def test_wrong_usage_is_exit_code_2(store, keep):
    text = invoke("0" * 32, "--keep", keep, code=2)
    assert text.startswith(f"error: keep: must be best, best:k (k of 1 or more), last or none, got {keep!r}")


def test_what_is_no_study_is_exit_code_2(store):
    assert invoke("0" * 32, "--keep", "none", code=2).startswith("error: run_id: no such run")
