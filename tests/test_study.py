import csv
import itertools
import json
import math
import os
import signal
import sys
from collections import Counter
from pathlib import Path

import mlflow
import pytest
import trainings
import yaml

from mlflow_hpo import ConfigError, SearchSpace, Study, StudyError, search_loop, tune
from mlflow_hpo.seeds import trial_seed
from mlflow_hpo.tracking.reader import read_study

SPACE = SearchSpace(trainings.SPACE)
HALVING = {"name": "successive_halving", "eta": 3}


def search(train, **keys):
    """Run a small study and return it."""
    defaults = {
        "metric": "loss",
        "mode": "min",
        "searcher": "random",
        "scheduler": HALVING,
        "max_resource": 9,
        "trials": 9,
        "seed": 1,
    }
    study = Study(train, SPACE, **(defaults | keys))
    study.run()
    return study


def children(store, run_id):
    """The nested runs of a study by trial id."""
    experiment = store.get_run(run_id).info.experiment_id
    runs = store.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{run_id}'")
    return {int(run.data.tags["hpo.trial"]): run for run in runs}


def histories(store, run):
    """Every metric of a run, step by step, but those of the machine."""
    names = [name for name in run.data.metrics if not name.startswith("system/")]
    return {
        name: [(m.step, m.value) for m in store.get_metric_history(run.info.run_id, name)] for name in names
    }


def parent_of_failed(store):
    """The parent run of the only study there is."""
    experiment = store.get_experiment_by_name("test").experiment_id
    [parent] = store.search_runs([experiment], "tags.`hpo.kind` = 'study'")
    return parent


def test_a_study_in_mlflow(store):
    study = search(trainings.quick, workers=2, name="my study")
    parent, trials = store.get_run(study.run_id), children(store, study.run_id)

    assert (parent.info.status, parent.info.run_name) == ("FINISHED", "my study")
    assert parent.data.tags.items() >= {
        "hpo.kind": "study", "hpo.schema": "1", "hpo.task": "trainings.quick", "hpo.metric": "loss",
        "hpo.mode": "min", "hpo.best_trial": str(study.best.trial_id),
    }.items()  # fmt: skip
    assert (
        parent.data.params.items() >= {"hpo.searcher": "random", "hpo.trials": "9", "hpo.seed": "1"}.items()
    )
    assert json.loads(parent.data.params["hpo.scheduler"]) == HALVING
    assert parent.data.metrics["best_loss"] == study.best.value
    # `quick` loads no checkpoint: each promotion begins from scratch, and those epochs are spent, too
    assert parent.data.metrics["epochs_spent"] == 9 * 1 + 3 * 3 + 1 * 9

    assert sorted(trials) == list(range(9))
    assert Counter(run.info.status for run in trials.values()) == {"KILLED": 8, "FINISHED": 1}
    for trial_id, run in trials.items():
        assert run.info.run_name == f"trial-{trial_id:04d}"
        assert run.data.tags.items() >= {"hpo.kind": "trial", "hpo.bracket": "0"}.items()
        config = SPACE.parse(run.data.params)
        assert config == study.optimizer.trials[trial_id].config
        epochs = int(run.data.tags["hpo.epochs"])
        expected = [(epoch, trainings.curve(config, epoch)) for epoch in range(1, epochs + 1)]
        assert histories(store, run)["loss"] == expected
        assert run.data.metrics["seed"] == trial_seed(1, trial_id)
        assert run.info.end_time is not None
        if run.info.status == "KILLED":
            rung = {1: 0, 3: 1}[epochs]
            assert run.data.tags["hpo.stop_reason"] == f"not promoted from rung {rung} (epoch {epochs})"
            assert run.data.tags["hpo.rung"] == str(rung)


def test_a_new_best_value_is_written_at_once_with_what_was_spent_until_then(store):
    study = search(trainings.quick, max_resource=3, trials=6, scheduler="full")
    runs, parent = children(store, study.run_id), histories(store, store.get_run(study.run_id))
    told = [loss for trial in range(6) for _, loss in sorted(histories(store, runs[trial])["loss"])]
    first = {loss: told.index(loss) + 1 for loss in itertools.accumulate(told, min)}
    assert len(first) > 3
    spent, found = dict(parent["epochs_spent"]), {}
    for step, best in sorted(parent["best_loss"]):
        found.setdefault(best, spent[step])
    assert found == first


def test_the_machine_is_sampled_while_a_trial_runs_for_long_enough(store):
    study = search(trainings.slow, max_resource=6, trials=2, scheduler="full")
    for run in children(store, study.run_id).values():
        assert "system/cpu_utilization_percentage" in run.data.metrics


def test_the_artifacts_of_a_study(store, tmp_path):
    study = search(trainings.quick)
    folder = Path(mlflow.artifacts.download_artifacts(run_id=study.run_id, dst_path=str(tmp_path / "got")))
    text = {name: (folder / name).read_text() for name in ("search.yaml", "space.json", "best_config.yaml")}
    again = yaml.safe_load(text["search.yaml"])
    assert SearchSpace(again["space"]) == SearchSpace(json.loads(text["space.json"])) == SPACE
    assert (again["trials"], again["scheduler"]) == (9, HALVING)
    best = yaml.safe_load(text["best_config.yaml"])
    assert (best["trial"], best["loss"], best["params"]) == (
        study.best.trial_id, study.best.value, study.best.config
    )  # fmt: skip
    assert f"mlflow=={mlflow.__version__}\n" in (folder / "environment" / "packages.txt").read_text()
    assert json.loads((folder / "environment" / "machine.json").read_text())["cores"] >= 1
    with (folder / "trials.csv").open(newline="") as file:
        rows = {int(row["trial"]): row for row in csv.DictReader(file)}
    for trial_id, run in children(store, study.run_id).items():
        assert rows[trial_id]["run_id"] == run.info.run_id
        assert rows[trial_id]["status"] == run.info.status
        assert float(rows[trial_id]["params.x"]) == float(run.data.params["x"])
    table = mlflow.load_table("trials.json", run_ids=[study.run_id])
    assert sorted(table["trial"]) == list(range(9))


def test_what_is_read_back_is_what_was_known(store):
    study = search(trainings.quick, budget={"hours": 1})
    ours, read = study.summary(), read_study(study.run_id)
    for name in ("run_id", "name", "status", "metric", "mode", "searcher", "scheduler", "epochs", "budget"):
        assert getattr(read, name) == getattr(ours, name)
    assert [trial.trial_id for trial in read.ranked()] == [trial.trial_id for trial in ours.ranked()]
    for mine, theirs in zip(ours.trials, read.trials, strict=True):
        assert theirs.seconds == pytest.approx(mine.seconds, abs=1e-3)
        assert (theirs.run_id, theirs.status, theirs.params, theirs.reason) == (
            mine.run_id, mine.status, mine.params, mine.reason
        )  # fmt: skip
        assert (theirs.value, theirs.best, theirs.best_epoch) == (mine.value, mine.best, mine.best_epoch)


@pytest.mark.parametrize("searcher", [pytest.param("random", marks=pytest.mark.full_size), "tpe"])
def test_the_same_seed_makes_the_same_study(store, searcher):
    first, second = (search(trainings.quick, searcher=searcher, trials=15) for _ in range(2))
    one, two = children(store, first.run_id), children(store, second.run_id)
    assert sorted(one) == sorted(two) == list(range(15))
    for trial_id in one:
        assert one[trial_id].data.params == two[trial_id].data.params
        assert histories(store, one[trial_id]) == histories(store, two[trial_id])
        assert one[trial_id].info.status == two[trial_id].info.status
    assert first.best == second.best
    other = search(trainings.quick, searcher=searcher, seed=2)
    assert children(store, other.run_id)[0].data.params != one[0].data.params


def test_promoted_trials_go_on_from_their_checkpoints(store):
    study = search(trainings.with_checkpoints, workers=2)
    for run in children(store, study.run_id).values():
        steps = histories(store, run)["length"]
        assert steps == [(epoch, epoch) for epoch in range(1, int(run.data.tags["hpo.epochs"]) + 1)]


def test_only_the_best_trials_checkpoints_are_kept(store):
    study = search(trainings.with_checkpoints, workers=2)
    for trial_id, run in children(store, study.run_id).items():
        names = [
            info.path.split("/")[1][:10] for info in store.list_artifacts(run.info.run_id, "checkpoints")
        ]
        assert names == ([f"epoch-{study.best.resource:04d}"] if trial_id == study.best.trial_id else [])


def test_all_checkpoints_are_kept_where_that_is_wanted(store):
    study = search(trainings.with_checkpoints, keep_checkpoints="all")
    for run in children(store, study.run_id).values():
        epochs = [int(info.path[18:22]) for info in store.list_artifacts(run.info.run_id, "checkpoints")]
        reached = int(run.data.tags["hpo.epochs"])
        assert set(epochs) >= {epoch for epoch in (1, 3, 9) if epoch <= reached}


@pytest.mark.parametrize(
    ("train", "reason"),
    [
        (trainings.raises_for_positive, "ValueError: x is positive"),
        (trainings.dies_for_positive, "the worker process died: signal SIGKILL"),
    ],
)
def test_a_failing_trial_is_a_failed_run_and_the_search_goes_on(store, train, reason):
    study = search(train, workers=2)
    assert study.best.config["x"] <= 0
    runs = children(store, study.run_id)
    failed = {i for i, run in runs.items() if run.info.status == "FAILED"}
    assert failed == {i for i, run in runs.items() if float(run.data.params["x"]) > 0}
    assert 0 < len(failed) < 9
    for trial_id in failed:
        assert runs[trial_id].data.tags["hpo.stop_reason"] == reason
    assert store.get_run(study.run_id).info.status == "FINISHED"


def test_a_traceback_is_kept_with_its_run(store):
    with pytest.raises(
        StudyError, match="max_failures: 2 trials failed and none succeeded, the last one with: V"
    ):
        search(trainings.raises, max_failures=2)
    parent = parent_of_failed(store)
    runs = children(store, parent.info.run_id)
    assert parent.info.status == "FAILED"
    assert parent.data.tags["hpo.stop_reason"].startswith("max_failures: 2 trials failed")
    assert {run.info.status for run in runs.values()} == {"FAILED"}
    assert "trainings.py" in runs[0].data.tags["hpo.traceback"]


def test_nan_ranks_last_and_breaks_nothing(store):
    study = search(trainings.nan_for_positive, workers=2)
    assert study.best.config["x"] <= 0
    runs = children(store, study.run_id)
    assert all(math.isnan(r.data.metrics["loss"]) for r in runs.values() if float(r.data.params["x"]) > 0)
    assert Counter(run.info.status for run in runs.values()) == {"KILLED": 8, "FINISHED": 1}


def test_a_metric_that_is_never_reported_ends_the_study_at_once(store):
    with pytest.raises(
        StudyError, match="metric: 'accuracy' is not among what the training reports at epoch 1: loss, seed"
    ):
        search(trainings.quick, metric="accuracy", mode="max")
    parent = parent_of_failed(store)
    assert parent.info.status == "FAILED"
    assert [run.info.status for run in children(store, parent.info.run_id).values()] == ["FAILED"]


def test_without_any_finite_value_a_study_fails(store):
    with pytest.raises(
        StudyError,
        match=r"no trial reported a finite loss; the last failure: the training returned without calling "
        r"trial\.report\(epoch, loss=\.\.\.\); values logged by mlflow\.log_metric do not count",
    ):
        search(trainings.says_nothing, trials=2)
    assert parent_of_failed(store).info.status == "FAILED"


def test_a_budget_of_epochs_pauses_what_runs(store):
    study = search(trainings.slow, scheduler="full", max_resource=50, workers=2, budget={"epochs": 10})
    parent, runs = store.get_run(study.run_id), children(store, study.run_id)
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["hpo.stop_reason"] == "budget of 10 epochs is spent"
    assert 10 <= parent.data.metrics["epochs_spent"] <= 12
    assert [run.info.status for run in runs.values()] == ["SCHEDULED", "SCHEDULED"]
    for trial_id, run in runs.items():
        reached = int(run.data.tags["hpo.epochs"])
        stored = {int(info.path[18:22]) for info in store.list_artifacts(run.info.run_id, "checkpoints")}
        # it can go on where it was paused; a slow worker may not have begun, or not reported what it saved
        assert max(stored, default=0) in (reached, reached + 1), trial_id


def test_what_cannot_be_paused_in_time_is_killed_but_has_not_failed(store, monkeypatch):
    monkeypatch.setattr(search_loop, "GRACE", 0.3)
    study = search(trainings.unstoppable, trials=1, scheduler="full", max_resource=5, budget={"epochs": 1})
    [run] = children(store, study.run_id).values()
    assert run.info.status == "SCHEDULED"
    assert run.data.tags["hpo.stop_reason"] == "interrupted after epoch 1"
    assert store.get_run(study.run_id).info.status == "FINISHED"


def test_a_study_runs_once_and_shows_its_trials_as_a_table(store):
    keys = {"metric": "loss", "mode": "min", "searcher": "random", "scheduler": "full", "max_resource": 1}
    study = Study(trainings.quick, SPACE, trials=3, **keys)
    with pytest.raises(StudyError, match="the study has no trials yet"):
        study.trials_dataframe()
    best = study.run()
    table = study.trials_dataframe()
    assert list(table["trial"]) == [0, 1, 2]
    assert set(table["status"]) == {"FINISHED"}
    row = table.loc[table["best"].idxmin()]
    assert (row["trial"], row["best"], row["params.x"]) == (best.trial_id, best.value, best.config["x"])
    assert row["params.slope"] == best.config.get("slope") or math.isnan(row["params.slope"])
    with pytest.raises(StudyError, match="a study runs once: make a new one"):
        study.run()


def test_a_job_that_takes_too_long_is_killed(store):
    with pytest.raises(StudyError, match="trial_timeout: the job took longer than 0.3 seconds"):
        search(trainings.never_reports, trials=2, max_failures=2, scheduler="full", trial_timeout=0.3)
    parent = parent_of_failed(store)
    assert {run.info.status for run in children(store, parent.info.run_id).values()} == {"FAILED"}


def test_one_that_takes_too_long_after_it_has_reported_fails_alone(store):
    study = search(trainings.endless_epoch, trials=2, scheduler="full", trial_timeout=0.3)
    for run in children(store, study.run_id).values():
        assert run.info.status == "FAILED"
        assert run.data.tags["hpo.stop_reason"] == "trial_timeout: the job took longer than 0.3 seconds"


def test_a_study_inside_an_active_run_nests_under_it(store):
    mlflow.set_experiment("test")
    with mlflow.start_run() as outer:
        study = search(trainings.quick, trials=3, scheduler="full", max_resource=1)
        assert mlflow.active_run().info.run_id == outer.info.run_id
    assert store.get_run(study.run_id).data.tags["mlflow.parentRunId"] == outer.info.run_id


def test_the_run_that_mlflow_run_made_becomes_the_parent(store, monkeypatch):
    experiment = store.create_experiment("elsewhere")
    made = store.create_run(experiment)
    store.log_param(made.info.run_id, "trials", "''")
    monkeypatch.setenv("MLFLOW_RUN_ID", made.info.run_id)
    study = search(trainings.quick, trials=3, scheduler="full", max_resource=1)
    assert study.run_id == made.info.run_id
    assert "MLFLOW_RUN_ID" not in os.environ  # left there it would make workers write to the parent
    assert {run.info.experiment_id for run in children(store, study.run_id).values()} == {experiment}
    assert store.get_run(study.run_id).info.status == "FINISHED"


def test_tune_returns_the_best_trial(store):
    best = tune(trainings.quick, trainings.SPACE, metric="loss", mode="min", trials=8, max_resource=4,
                scheduler="asha", searcher="random", seed=3)  # fmt: skip
    assert best.value == trainings.curve(best.config, best.resource)


def test_points_are_tried_first(store):
    point = {"x": 0.0, "kind": "round"}
    study = search(trainings.quick, points=[point])
    assert study.optimizer.trials[0].config == point
    assert study.best.config == point


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ({"searcher": "tpu"}, "searcher: must be one of"),
        ({"scheduler": {"name": "asha", "etta": 3}}, "scheduler.etta: is no option of asha"),
        ({"launcher": "cloud"}, "launcher: must be one of"),
        ({"points": [{"x": 5.0, "kind": "round"}]}, r"points\[0\].x: must be"),
        ({"trials": 0}, "trials: must be greater than 0, got 0"),
        ({"experimnt": "x"}, "experimnt: is not a known field; did you mean experiment"),
    ],
)
def test_bad_input_is_told_before_anything_is_launched(store, keys, line):
    with pytest.raises(ConfigError, match=line):
        search(trainings.quick, **keys)
    assert store.get_experiment_by_name("test") is None


def test_training_must_be_callable():
    with pytest.raises(ConfigError, match="train: must be a function of one Trial, got str"):
        Study("train.py", SPACE, metric="loss", mode="min", max_resource=1)


SCRIPT = """
import sys
sys.path.insert(0, {folder!r})
import time
from mlflow_hpo import tune

pause = 0.05

def train(trial):  # defined in the script itself, with a global of its own, and no `if __name__` anywhere
    for epoch in trial.epochs():
        time.sleep(pause)
        open("state", "w").write(str(epoch))
        trial.save_checkpoint("state")
        trial.report(epoch, loss=abs(trial.params["x"]) / epoch)

best = tune(train, {{"x": {{"type": "float", "low": -1, "high": 1}}}}, metric="loss", mode="min", seed=0,
            searcher="random", scheduler="full", max_resource={epochs}, trials={trials}, workers=2)
print("best", best.value)
"""


def script(tmp_path, tests_folder, **sizes):
    path = tmp_path / "script.py"
    path.write_text(SCRIPT.format(folder=str(tests_folder), **sizes))
    return path


def test_a_plain_script_is_enough(store, tmp_path, tests_folder, start_process):
    process = start_process(sys.executable, script(tmp_path, tests_folder, epochs=2, trials=3), cwd=tmp_path)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert output.splitlines()[-1].startswith("best 0.")


def running_trials(store):
    experiment = store.get_experiment_by_name("test")
    if experiment is None:
        return []
    runs = store.search_runs([experiment.experiment_id], "tags.`hpo.kind` = 'trial'")
    return [run for run in runs if run.data.metrics.get("loss") is not None]


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.full_size)])
def test_an_interrupt_leaves_every_run_paused_with_its_checkpoint(
    store, tmp_path, tests_folder, start_process, wait_for, number
):
    process = start_process(
        sys.executable, script(tmp_path, tests_folder, epochs=10_000, trials=4), cwd=tmp_path
    )
    wait_for(lambda: len(running_trials(store)) == 2)
    os.killpg(process.pid, number)  # as a terminal does: to the whole group
    output, _ = process.communicate(timeout=90)
    assert "KeyboardInterrupt" in output
    parent = parent_of_failed(store)
    assert parent.info.status == "KILLED"
    assert parent.data.tags["hpo.stop_reason"] == "interrupted"
    trials = children(store, parent.info.run_id)
    assert [run.info.status for run in trials.values()] == ["SCHEDULED", "SCHEDULED"]
    for run in trials.values():
        reached = int(run.data.tags["hpo.epochs"])
        assert run.data.tags["hpo.stop_reason"] == f"interrupted after epoch {reached}"
        stored = {int(info.path[18:22]) for info in store.list_artifacts(run.info.run_id, "checkpoints")}
        assert max(stored) in (reached, reached + 1)  # + 1: saved, but not yet reported


def test_a_second_interrupt_quits_at_once(store, tmp_path, tests_folder, start_process, wait_for):
    text = SCRIPT.format(folder=str(tests_folder), epochs=10_000, trials=4)
    stubborn = text.replace(
        "        time.sleep(pause)\n",
        "        try:\n            time.sleep(pause if epoch == 1 else 100)\n"
        "        except BaseException:\n            time.sleep(100)\n",
    )
    (tmp_path / "script.py").write_text(stubborn)
    process = start_process(sys.executable, tmp_path / "script.py", cwd=tmp_path)
    wait_for(lambda: len(running_trials(store)) == 2)
    os.kill(process.pid, signal.SIGINT)
    with pytest.raises(Exception, match="timed out"):
        process.communicate(timeout=2)
    os.kill(process.pid, signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130


def test_says_how_large_a_grid_is(store, caplog):
    with caplog.at_level("INFO", logger="mlflow_hpo.study"):
        study = search(
            trainings.quick, searcher={"name": "grid", "points": 2}, scheduler="full", max_resource=1
        )
    assert "grid of 6 configurations" in caplog.messages
    assert len(study.optimizer.trials) == 6
