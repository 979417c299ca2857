"""However a search ends, its runs tell the truth, its scripts are gone, and it can go on."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from click.testing import CliRunner
from mlflow.tracking import MlflowClient
from processes import clean_environment
from searching import command

from mlflow_hpo.cli import main

KEYS: dict[str, Any] = {
    "metric": {"name": "score", "mode": "max"},
    "space": {"x": {"type": "float", "low": 1, "high": 2}},
    "searcher": "random",
    "scheduler": "full",
    "max_resource": 6,
    "trials": 3,
    "workers": 2,
    "project": {"poll_interval": 0.1},
}


def scripts_in(folder: Path) -> list[int]:
    """Return the processes that work in a folder."""
    found = []
    for process in psutil.process_iter(["pid", "cwd", "status"]):
        if process.info["cwd"] == str(folder) and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process.info["pid"])
    return found


@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.full_size), signal.SIGKILL])
def test_a_search_that_is_ended_goes_on(
    search: Any,
    foreign: Callable[[str], Path],
    store: MlflowClient,
    start_process: Any,
    wait_for: Any,
    number: signal.Signals,
) -> None:
    project = foreign("counting")
    process = start_process(
        *command(project, KEYS, "-P", "seconds=0.4"),
        env=clean_environment(MLFLOW_TRACKING_URI=store.tracking_uri),
    )

    def epochs_of_trials() -> list[int]:
        runs = store.search_runs(["0"], "tags.`hpo.kind` = 'trial'")
        return [len(store.get_metric_history(run.info.run_id, "score")) for run in runs]

    wait_for(lambda: len(epochs_of_trials()) == 2 and min(epochs_of_trials()) > 1, 120)
    assert scripts_in(project)
    os.kill(process.pid, number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode != 0, output
    wait_for(lambda: not scripts_in(project))
    (study,) = store.search_runs(["0"], "tags.`hpo.kind` = 'study'")
    runs = store.search_runs(["0"], "tags.`hpo.kind` = 'trial'")
    if number is signal.SIGKILL:
        assert study.info.status == "RUNNING", "nobody was there to say otherwise"
        # one of the scripts may have been quicker, and have ended its run itself
        through = runs[0].info.run_id
        for epoch in range(len(store.get_metric_history(through, "score")), 6):
            store.log_metric(through, "score", float(runs[0].data.params["x"]) * epoch)
        store.set_terminated(through)
    else:
        assert study.info.status == "KILLED"
        assert [run.info.status for run in runs] == ["SCHEDULED", "SCHEDULED"]
        assert all(run.data.tags["hpo.stop_reason"].startswith("interrupted after epoch ") for run in runs)

    resume = {"resume": study.info.run_id, "take_over": number is signal.SIGKILL}
    done = search(project, resume, "-P", "seconds=0.4")
    assert done.code == 0, done.output
    assert done.study.info.status == "FINISHED"
    assert [run.info.status for run in done.trials] == ["FINISHED"] * 3
    assert [len(done.steps(run, "score")) for run in done.trials] == [6, 6, 6], "nothing is there twice"
    assert [run.data.metrics["best_score"] for run in done.trials] == [
        run.data.metrics["score"] for run in done.trials
    ]
    assert len(done.attempts) == (1 if number is signal.SIGKILL else 2)

    if number is signal.SIGINT:
        done = search(project, {**resume, "trials": 4}, "-P", "seconds=0.1")
        assert done.code != 0
        assert (
            "resume: the study is about 'counting (seconds=0.4)', got 'counting (seconds=0.1)'" in done.output
        )


def test_a_search_that_is_over_goes_on_with_more_trials(
    search: Any, foreign: Callable[[str], Path], store: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = foreign("counting")
    monkeypatch.chdir(project)
    done = search(".", {**KEYS, "max_resource": 2, "trials": 1}, "-P", "epochs=2")
    assert done.code == 0, done.output
    assert done.study.data.tags["mlflow.source.name"] == str(project)
    run_id = done.study.info.run_id

    told = CliRunner().invoke(main, ["resume", run_id])
    assert told.exit_code == 2
    assert (
        f"""mlflow run {project} --backend hpo --backend-config '{{"resume": "{run_id}"}}'""" in told.output
    )

    done = search(project, {"resume": run_id, "trials": 2}, "-P", "epochs=2")
    assert done.code == 0, done.output
    assert [run.info.status for run in done.trials] == ["FINISHED"] * 2
    assert done.attempts == [], "the first one is not trained again"


def test_a_search_of_which_nothing_came_has_failed(search: Any, foreign: Callable[[str], Path]) -> None:
    keys = {**KEYS, "space": {"x": {"type": "float", "low": -2, "high": -1}}, "max_failures": 2, "workers": 1}
    done = search(foreign("counting"), keys, "-P", "epochs=1")
    assert done.code == 1
    assert (
        "=== max_failures: 2 trials failed and none succeeded, the last one with: the script" in done.output
    )
    assert done.study.info.status == "FAILED"
    assert [run.info.status for run in done.trials] == ["FAILED", "FAILED"]


def test_a_metric_that_the_script_does_not_log(search: Any, foreign: Callable[[str], Path]) -> None:
    done = search(foreign("counting"), KEYS, "-P", "metric=points", "-P", "epochs=1")
    assert done.code == 1
    assert "metric: 'score' is not among what the training reports at epoch 6: points" in done.output
    assert ": failed, without score; no trial has told it yet, so the study ends" in done.output
    assert done.study.info.status == "FAILED"
    assert {run.info.status for run in done.trials} == {"FAILED"}


CRASHING = """
import os, signal, sys
from pathlib import Path
import mlflow

mlflow.log_metric("score", 1.0, step=0)
mlflow.log_metric("score", 2.0, step=1)
crashed = Path("crashed")
if not crashed.exists():
    crashed.touch()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_script_that_a_signal_ends_is_tried_again(search: Any, tmp_path: Path) -> None:
    project = tmp_path / "crashing"
    project.mkdir()
    (project / "train.py").write_text(CRASHING)
    done = search(project, {**KEYS, "max_resource": 2, "trials": 1}, "-e", "train.py")
    assert done.code == 0, done.output
    (trial,), (attempt,) = done.trials, done.attempts
    assert trial.info.status == "FINISHED"
    assert done.steps(trial, "score") == [0, 1], "nothing is there twice"
    assert attempt.data.tags["mlflow.parentRunId"] == trial.info.run_id
    assert trial.data.tags["hpo.attempt"] == "2"
    assert "trying again: the script ended with signal SIGKILL" in trial.data.tags["hpo.warning"]


BY_ITSELF = """
import sys
import mlflow

given = dict(zip(sys.argv[1::2], sys.argv[2::2]))
for epoch in range(int(given["--epochs"])):
    mlflow.log_metric("score", float(given["--x"]), step=epoch)
"""


@pytest.mark.parametrize("epochs", [1, 2], ids=["one value, at its end", "two epochs of nine"])
def test_a_script_that_ends_by_itself_is_fully_trained_however_bad_it_is(
    search: Any, tmp_path: Path, epochs: int
) -> None:
    project = tmp_path / "by_itself"
    project.mkdir()
    (project / "train.py").write_text(BY_ITSELF)
    keys = {
        **KEYS,
        "metric": {"name": "score", "mode": "min"},
        "scheduler": "asha_stopping",
        "points": [{"x": x} for x in (1.1, 1.2, 1.3)],
        "min_resource": 3,
        "max_resource": 9,
        "workers": 1,
    }
    done = search(project, keys, "-e", "train.py", "-P", f"epochs={epochs}")
    assert done.code == 0, done.output
    assert [run.info.status for run in done.trials] == ["FINISHED"] * 3
    assert [run.data.tags["hpo.epochs"] for run in done.trials] == ["9"] * 3
    assert not any("hpo.stop_reason" in run.data.tags for run in done.trials)
