"""What the report's page is made of: of studies in MLflow, finished, running, killed or resumed."""

import functools
import json
import re
import sys
import threading
from collections import Counter
from itertools import pairwise

import mlflow
import pytest
import trainings
from click.testing import CliRunner
from recorded import recorded

from mlflow_hpo import Study, reporting
from mlflow_hpo.cli import main
from mlflow_hpo.reports import html
from mlflow_hpo.reports.columns import FATES, columns
from mlflow_hpo.reports.failures import grouped
from mlflow_hpo.reports.html import page
from mlflow_hpo.reports.importance import importance
from mlflow_hpo.tracking import details as details_module
from mlflow_hpo.tracking.details import read_details
from mlflow_hpo.tracking.jobs import WorkedJob, read_jobs, written_jobs


def search(train=trainings.quick, **keys):
    """Run a small study and return it."""
    given = {"metric": "loss", "mode": "min", "searcher": "random", "scheduler": "asha",
             "max_resource": 9, "trials": 12, "seed": 1}  # fmt: skip
    study = Study(train, trainings.SPACE, **(given | keys))
    study.run()
    return study


def data(text):
    """Return what a page's script gets."""
    [found] = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    return json.loads(found)["studies"]


def report_of(run_id):
    return data(mlflow.artifacts.load_text(f"runs:/{run_id}/report.html"))


# --- of MLflow


def test_the_report_of_a_study_tells_what_its_runs_hold(store):
    search(name="first")
    study = search(trainings.raises_for_positive, name="second", warm_start=["test"], seed=2)
    summary = study.summary()

    [told] = report_of(study.run_id)

    assert (told["name"], told["experiment"], told["status"]) == ("second", "test", "FINISHED")
    trials = told["trials"]
    assert trials["id"] == list(range(12))
    assert [FATES[fate] for fate in trials["fate"]] == [each.status for each in summary.trials]
    assert {"FAILED", "KILLED"} < {FATES[fate] for fate in trials["fate"]}
    assert trials["best"] == [each.best for each in summary.trials]
    assert trials["id"][told["best"]] == study.best.trial_id
    for number, (count, values) in enumerate(told["curves"]):
        run = trials["run"][number]
        points = store.get_metric_history(run, "loss")
        assert count == len(points)
        assert values == [float(f"{point.value:.6g}") for point in points]
        assert all(seconds >= 0 for _, _, seconds in trials["jobs"][number])
    kinds = told["space"][told["space"].index(next(p for p in told["space"] if p["name"] == "kind"))]
    assert kinds["labels"] == ["round", "flat"]
    flat = [each.params["kind"] == "flat" for each in summary.trials]
    slope = [parameter["name"] for parameter in told["space"]].index("slope")
    assert [value is not None for value in told["params"][slope]] == flat
    [failures] = told["failures"]
    assert failures["count"] == summary.count("FAILED")
    assert "x is positive" in failures["reason"]
    assert "ValueError" in failures["traceback"]
    assert told["warmStart"]["tasks"][0]["trials"] == 12
    assert [told["texts"][place] for place in trials["origin"]].count("") < 12
    last = told["incumbent"][-1]
    assert last[1] == told["epochs"] == summary.epochs
    assert last[3] == study.best.value


def test_jobs_of_a_resumed_study_are_those_that_were_worked(store):
    first = search(budget={"epochs": 11})
    before = {trial.summary.trial_id: trial.jobs for trial in read_details(first.run_id).trials}
    Study(trainings.quick, resume=first.run_id, budget={"epochs": 1000}).run()

    after = {trial.summary.trial_id: trial.jobs for trial in read_details(first.run_id).trials}

    assert any(before.values())
    assert sum(map(len, after.values())) > sum(map(len, before.values()))
    for trial_id, jobs in before.items():
        assert after[trial_id][: len(jobs)] == jobs
    worked = sorted((job.worker, job.begin, job.end) for jobs in after.values() for job in jobs)
    for (worker, _, end), (next_worker, begin, _) in pairwise(worked):
        assert worker != next_worker or begin > end - 0.05, "one worker at two jobs"


def test_curves_are_asked_for_one_by_one_only_where_nothing_holds_them(store, monkeypatch):
    study = search()
    whole = read_details(study.run_id)
    asked = []
    real = details_module._curve
    monkeypatch.setattr(details_module, "_curve", lambda *args: asked.append(args) or real(*args))

    assert read_details(study.run_id) == whole
    assert asked == []

    monkeypatch.setattr(details_module, "written_curves", lambda run_id: {})  # as if its driver was killed
    store.update_run(study.run_id, status="RUNNING")
    killed = read_details(study.run_id)
    assert len(asked) == 12
    assert [trial.curve for trial in killed.trials] == [trial.curve for trial in whole.trials]
    assert columns(killed)["status"] == "RUNNING"


def test_a_study_that_broke_off_has_a_report_too(store):
    with pytest.raises(Exception, match="trials failed"):
        search(trainings.raises, max_failures=2)
    [run] = store.search_runs(["1"], "tags.`hpo.kind` = 'study'")
    [told] = report_of(run.info.run_id)
    assert (told["status"], told["best"], told["incumbent"]) == ("FAILED", None, [])
    assert told["failures"][0]["count"] >= 2


def test_a_running_study_reports_now_and_then(store, monkeypatch):
    monkeypatch.setattr(reporting, "INTERVAL", 0.0)
    monkeypatch.setattr(reporting, "SHARE", float("inf"))
    seen = []
    real = html.page

    def noted(studies):
        seen.append(studies[0].summary.status)
        return real(studies)

    monkeypatch.setattr(html, "page", noted)
    study = search(functools.partial(trainings.with_checkpoints, seconds=0.05), scheduler="full", trials=4)
    assert seen[0] == "RUNNING"
    assert seen[-1] == "FINISHED"
    assert report_of(study.run_id)[0]["status"] == "FINISHED"


def test_the_report_of_a_large_study_is_made_by_another_process(store, monkeypatch, caplog):
    monkeypatch.setattr(reporting, "LARGE", 12)
    monkeypatch.setattr(html, "page", lambda studies: pytest.fail("made here"))
    study = search()
    [told] = report_of(study.run_id)
    assert (told["status"], len(told["trials"]["id"])) == ("FINISHED", 12)
    assert told["curves"] == columns(read_details(study.run_id))["curves"]

    monkeypatch.setattr(reporting, "own_python", lambda code: ["/bin/false"])
    search()
    assert caplog.text.count("no report written") == 1


def test_a_report_that_fails_is_a_warning(store, monkeypatch, caplog):
    def broken(studies):
        raise OSError("no space at http://me:secret@store.example/")

    monkeypatch.setattr(html, "page", broken)
    study = search()
    assert store.get_run(study.run_id).info.status == "FINISHED"
    assert "no report written (OSError: no space at http://store.example/)" in caplog.text
    assert f"mlflow-hpo report {study.run_id}" in caplog.text


def test_a_report_that_hangs_is_not_waited_for(store, monkeypatch, caplog):
    let_go = threading.Event()
    monkeypatch.setattr(reporting, "PATIENCE", 0.1)
    monkeypatch.setattr(html, "page", lambda studies: let_go.wait(60) and "")
    try:
        study = search()
        assert store.get_run(study.run_id).info.status == "FINISHED"
        assert "no report written (it takes too long)" in caplog.text
    finally:
        let_go.set()


# --- the command


def invoke(*arguments):
    return CliRunner().invoke(main, ["report", *map(str, arguments)])


def test_the_command_writes_one_page_of_several_studies(store, tmp_path):
    first, second = search(name="first", trials=3), search(name="second", trials=3, seed=2)
    result = invoke(first.run_id, second.run_id, first.run_id, "-o", tmp_path / "out.html")
    assert result.exit_code == 0, result.output
    assert str(tmp_path / "out.html") in result.output
    text = (tmp_path / "out.html").read_bytes().decode()
    assert [study["name"] for study in data(text)] == ["first", "second"]
    assert data(invoke(first.run_id, "-o", "-").output)[0]["name"] == "first"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["0" * 32], "error: run_id: no such run"),
        (["0" * 32, "-o", "nowhere/out.html"], "error: output: there is no folder"),
        ([], "Usage: "),
    ],
)
def test_wrong_usage_is_exit_code_2(store, arguments, line):
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert result.output.startswith(line)


# --- the page


def test_nothing_of_others_is_markup():
    evil = "</script><script>alert(1)</script><!--"
    text = page([recorded(name=evil, reason=evil, experiment=evil)])
    assert data(text)[0]["name"] == evil
    assert text.count("<script") == text.count("</script>") == 3
    assert "alert(1)</title>" not in text
    head, _, _ = text.partition("</head>")
    assert "default-src 'none'" in head
    assert "unsafe-eval" not in head
    assert "script-src 'sha256-" in head


def test_numbers_that_json_does_not_know_are_null():
    study = recorded(3)
    object.__setattr__(study.trials[0].summary, "value", float("nan"))
    study.trials[1].curve[1][0] = float("inf")
    [told] = data(page([study]))
    assert told["trials"]["value"][0] is None
    assert told["curves"][1][1][0] is None


def test_choices_are_places_among_their_labels():
    choices = ["one", 2, 1.5, True, None]
    study = recorded(40, space={"mixed": {"type": "categorical", "choices": choices}})
    told = columns(study)
    assert told["space"][0]["labels"] == ["one", "2", "1.5", "True", "None"]
    values = [trial.summary.params["mixed"] for trial in study.trials]
    assert [choices[place] for place in told["params"][0]] == values


def test_epochs_that_have_gaps_are_told():
    study = recorded(2)
    study.trials[0].curve[0][-1] += 5
    [gap, plain] = columns(study)["curves"]
    assert gap[0] == list(study.trials[0].curve[0])
    assert plain[0] == len(study.trials[1].curve[1])


def test_failures_that_differ_in_numbers_stand_together():
    study = recorded(60)
    groups = grouped(study.trials)
    assert [len(group.trials) for group in groups] == [6]
    assert Counter(trial.summary.status for trial in study.trials)["FAILED"] == 6
    assert groups[0].reason.startswith("out of memory at epoch")


def test_what_matters_is_found_important():
    told = importance(recorded(200))
    assert next(iter(told.shares)) == "learning_rate"
    assert set(told.shares) == {"learning_rate", "batch_size", "dropout", "optimizer", "momentum"}
    assert sum(told.shares.values()) == pytest.approx(1, abs=1e-3)


def test_importance_says_what_is_missing(monkeypatch):
    assert "20 trials" in importance(recorded(8)).missing
    monkeypatch.setitem(sys.modules, "optuna", None)
    monkeypatch.setitem(sys.modules, "optuna.importance", None)
    told = importance(recorded(40))
    assert told.shares == {}
    assert "mlflow-hpo[optuna]" in told.missing


def test_jobs_fit_into_a_tag():
    jobs = [WorkedJob(number % 3, 1e9 + number, 1e9 + number + 0.5) for number in range(1_000)]
    text = written_jobs(jobs, 4_000)
    assert len(text) <= 4_000
    kept = read_jobs(text)
    assert list(kept) == jobs[-len(kept) :]
    assert len(kept) > 100
    assert read_jobs("[1") == read_jobs('{"a": 1}') == ()
