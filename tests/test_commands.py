"""Reading commands: what they print of studies, and of names that were made to harm."""

import csv
import dataclasses
import io
import json

import mlflow
import pyarrow.parquet
import pytest
import trainings
from click.testing import CliRunner

from mlflow_hpo import tune
from mlflow_hpo.cli import main
from mlflow_hpo.reports.export import to_csv, to_json, to_parquet
from mlflow_hpo.reports.tables import aligned, best_data, best_lines
from mlflow_hpo.reports.text import ending
from mlflow_hpo.reports.words import brief, plain
from mlflow_hpo.tracking.summary import StudySummary, TrialSummary

HOSTILE = [
    "<script>alert(1)</script>",
    "../../x",
    "x" * 5_000,
    "日本 ünï 🦊",
    '"quo\'tes", and; commas',
    "\x1b[31mred\x1b[0m\x07",
    "\x9b31mred",
    "[red]markup[/red] [/]",
    "\u202egnp.exe",
    "two\nlines\r\n",
    "=1+1",
    "$(touch pwned) `touch pwned`",
]
NAME = "日本 ünï/x.y: z-"  # of a parameter, as far as MLflow lets it
LONG = "\x1b]0;title\x07[bold]../../" + "n" * 7_900  # MLflow cuts tags at 8,000


def invoke(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def printed(*arguments, code=0):
    """Return what a command prints; nothing of it may steer a terminal."""
    result = invoke(*arguments)
    assert result.exit_code == code, result.output
    assert all(char.isprintable() or char in "\n\t" for char in result.output), result.output
    return result.output


def as_json(*arguments, code=0):
    return json.loads(printed(*arguments, "--json", code=code))


def search(train=trainings.quick, **keys):
    """Run a small study; return the id of its parent run."""
    given = {
        "space": trainings.SPACE, "metric": "loss", "mode": "min", "trials": 3, "workers": 1,
        "max_resource": 2, "searcher": "random", "scheduler": "full", "seed": 0,
    }  # fmt: skip
    tune(train, **(given | keys))
    [run] = mlflow.search_runs(
        search_all_experiments=True, filter_string="tags.`hpo.kind` = 'study'", output_format="list"
    )
    return run.info.run_id


def test_what_is_read_back_of_a_study(store, tmp_path):
    run_id = search(experiment="digits", name="first")
    trials = {
        int(run.data.tags["hpo.trial"]): run for run in store.search_runs(["1"], "tags.`hpo.kind` = 'trial'")
    }
    values = {number: run.data.metrics["best_loss"] for number, run in trials.items()}
    winner = min(values, key=values.get)

    [listed] = as_json("list")
    expected = {
        "run_id": run_id, "name": "first", "experiment": "digits", "status": "FINISHED", "metric": "loss",
        "mode": "min", "best": values[winner], "trials_started": 3, "trials_planned": 3, "reason": "",
    }  # fmt: skip
    assert listed.items() >= expected.items()
    assert listed["ended"] > listed["started"] > "2020"
    heading, line = printed("list", "--experiment", "digits").splitlines()
    assert line.startswith(f"{run_id}  first  digits      FINISHED  loss (min)  {values[winner]:.6g}")
    assert heading.index("TRIALS") == line.index("3/3")

    best = as_json("best", run_id)
    assert best["value"] == values[winner]
    assert (best["trial"], best["trial_run_id"]) == (winner, trials[winner].info.run_id)
    assert {name: str(value) for name, value in best["config"].items()} == trials[winner].data.params
    assert best["model_uri"] is None
    text = printed("best", run_id)
    assert f"trial: {winner}, epoch {best['epoch']}, run {trials[winner].info.run_id}" in text
    assert "model: none is logged" in text

    shown = as_json("show", run_id)
    assert (shown["run_id"], len(shown["trials"])) == (run_id, 3)

    for form in ("csv", "json", "parquet"):
        assert printed("export", run_id, "--format", form, "-o", tmp_path / f"out.{form}") == ""
    exported = json.loads((tmp_path / "out.json").read_text())
    assert exported["study"]["name"] == "first"
    assert {row["trial"]: row["best"] for row in exported["trials"]} == values
    assert {row["epochs"] for row in exported["trials"]} == {2}
    rows = list(csv.DictReader((tmp_path / "out.csv").read_text().splitlines()))
    table = pyarrow.parquet.read_table(tmp_path / "out.parquet").to_pylist()
    for row, of_json, of_parquet in zip(rows, exported["trials"], table, strict=True):
        params = of_json.pop("params")
        assert {
            name: value for name, value in of_parquet.items() if not name.startswith("params.")
        } == of_json
        assert {f"params.{name}": value for name, value in params.items()}.items() <= of_parquet.items()
        assert float(row["value"]) == of_json["value"]
        assert float(row["params.x"]) == params["x"]
        assert row["params.slope"] == str(params.get("slope", ""))  # inactive: empty, or null
    assert printed("export", run_id, "--format", "csv") == (tmp_path / "out.csv").read_text()


def test_an_empty_store(store):
    assert printed("list") == "no study yet\n"
    assert as_json("list") == []


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["list", "--experiment", "nowhere\x1b[31m"], r"error: experiment: there is no active experiment"),
        (["best", "0" * 32], "error: run_id: no such run"),
        (["export", "0" * 32, "--format", "csv"], "error: run_id: no such run"),
        (
            ["export", "0" * 32, "--format", "csv", "-o", "nowhere/out.csv"],
            "error: output: there is no folder",
        ),
        (["export", "0" * 32, "--format", "xlsx"], "Usage: "),
        (["export", "0" * 32], "Usage: "),
    ],
)
def test_wrong_usage_is_exit_code_2(store, arguments, line):
    assert printed(*arguments, code=2).startswith(line)


def test_a_study_without_a_value_has_no_best(store):
    parent = store.create_run("0", tags={"hpo.kind": "study", "hpo.metric": "loss", "hpo.mode": "min"})
    for name in ("searcher", "scheduler"):
        store.log_param(parent.info.run_id, f"hpo.{name}", "random")
    for name in ("trials", "max_resource"):
        store.log_param(parent.info.run_id, f"hpo.{name}", "3")
    store.log_text(parent.info.run_id, json.dumps(trainings.SPACE), "space.json")
    assert "has a feasible value yet" in printed("best", parent.info.run_id, code=1)
    rows = printed("export", parent.info.run_id, "--format", "csv").splitlines()
    assert len(rows) == 1
    assert rows[0].startswith("trial,run_id,status")
    assert as_json("list")[0]["best"] is None
    assert "  -  " in printed("list").splitlines()[1]


def test_an_unreachable_store_is_exit_code_1(store):
    mlflow.set_tracking_uri("http://127.0.0.1:9")
    assert printed("list", code=1).startswith("error: MLFLOW_TRACKING_URI: cannot reach")


def test_hostile_names_neither_break_nor_style_anything(store, tmp_path, monkeypatch):
    space = {
        NAME: {"type": "categorical", "choices": HOSTILE},
        "mixed": {"type": "categorical", "choices": ["1", 2, 1.5, True]},
    }
    run_id = search(
        trainings.whatever,
        space=space,
        trials=48,
        max_resource=1,
        searcher="grid",
        experiment="[red]<b>\x1b[1m../x",
    )
    store.set_tag(run_id, "mlflow.runName", LONG)
    store.set_tag(run_id, "hpo.stop_reason", LONG)
    trials = store.search_runs(["1"], "tags.`hpo.kind` = 'trial'", max_results=1000)
    store.set_tag(trials[0].info.run_id, "hpo.stop_reason", LONG)
    before = sorted(tmp_path.parent.rglob("*"))

    shown = printed("show", run_id)
    assert r"study \x1b]0;title\x07[bold]../../nnn" in shown
    assert max(map(len, shown.splitlines())) < 2_000
    assert as_json("show", run_id)["name"] == LONG

    [_, line] = printed("list").splitlines()
    assert r"[red]<b>\x1b[1m../x" in line
    assert len(line) < 200
    [listed] = as_json("list")
    assert (listed["name"], listed["experiment"]) == (LONG, "[red]<b>\x1b[1m../x")

    best = as_json("best", run_id)
    text = printed("best", run_id)
    assert f"  {NAME}: {brief(best['config'][NAME], 500)}" in text.splitlines()
    assert best["config"][NAME] in HOSTILE

    monkeypatch.chdir(tmp_path)
    for form in ("csv", "json", "parquet"):
        printed("export", run_id, "--format", form, "-o", f"out.{form}")
    made = {path for path in sorted(tmp_path.parent.rglob("*")) if path not in before}
    assert {path.name for path in made if "mlflow.db" not in path.name} == {
        "out.csv",
        "out.json",
        "out.parquet",
    }

    exported = json.loads((tmp_path / "out.json").read_text())
    assert {row["params"][NAME] for row in exported["trials"]} == set(HOSTILE)
    assert LONG in {row["reason"] for row in exported["trials"]}
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row[f"params.{NAME}"] for row in rows} == {plain(text) for text in HOSTILE}
    assert "\x1b" not in (tmp_path / "out.csv").read_text()
    table = pyarrow.parquet.read_table(tmp_path / "out.parquet").to_pydict()
    assert set(table[f"params.{NAME}"]) == set(HOSTILE)
    assert set(table["params.mixed"]) == {'"1"', "2", "1.5", "true"}
    assert LONG in table["reason"]

    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "[red]<b>\x1b[1m../x")
    monkeypatch.setenv("MLFLOW_RUN_ID", LONG)
    told = printed("doctor", code=1)
    assert r"'[red]<b>\x1b[1m../x' (id 1)" in told
    assert r"MLFLOW_RUN_ID=\x1b]0;title\x07[bold]../../nnn" in told
    assert not (tmp_path / "pwned").exists()


def summary(*trials):
    return StudySummary(
        run_id="0" * 32, name="x", experiment_id="1", tracking_uri="sqlite://", status="FINISHED",
        metric="loss", mode="min", searcher="random", scheduler="full", trials_planned=2, max_resource=1,
        seconds=1.0, epochs=2, gpu_hours=0.0, trials=trials,
    )  # fmt: skip


def trial(number, **facts):
    return TrialSummary(
        **({"trial_id": number, "run_id": f"r{number}", "status": "FINISHED", "params": {}} | facts)
    )


def test_texts_of_any_length_are_cut_for_the_terminal():
    long = "\x1b[31m" + "n" * 10_000
    best = trial(0, params={"x": long}, value=1.0, best=1.0, best_epoch=1)
    study = dataclasses.replace(summary(best), name=long, reason=long, metric=long)
    lines = [*ending(study), *best_lines(study)]
    assert all(line.isprintable() for line in lines)
    assert max(map(len, lines)) < 1_200
    assert best_data(study)["config"] == {"x": long}


def test_export_of_numbers_that_json_does_not_know():
    study = summary(trial(0, value=float("nan")), trial(1, value=float("inf"), status="FAILED"))
    assert [row["value"] for row in json.loads(to_json(study))["trials"]] == [None, None]
    values = pyarrow.parquet.read_table(io.BytesIO(to_parquet(study)))["value"].to_pylist()
    assert str(values) == "[nan, inf]"
    assert [row["value"] for row in csv.DictReader(to_csv(study).decode().splitlines())] == ["nan", "inf"]


def test_export_of_a_parameter_that_has_the_name_of_a_column():
    study = summary(trial(0, params={"status": 7, "params.status": 8}))
    [row] = csv.DictReader(to_csv(study).decode().splitlines())
    assert (row["status"], row["params.status"], row["params.params.status"]) == ("FINISHED", "7", "8")


def test_whole_and_broken_numbers_share_a_column():
    study = summary(trial(0, params={"x": 1}), trial(1, params={"x": 1.5}), trial(2))
    table = pyarrow.parquet.read_table(io.BytesIO(to_parquet(study)))
    assert table["params.x"].to_pylist() == [1.0, 1.5, None]


def test_the_model_is_named_only_if_it_is_that_of_the_best():
    study = summary(trial(0, value=1.0, best=1.0, best_epoch=3), trial(1, value=2.0, best=2.0, best_epoch=1))
    for model, uri in [
        ("trial 0 at epoch 3", f"runs:/{'0' * 32}/model"),
        ("trial 1 at epoch 1", None),
        ("", None),
    ]:
        assert best_data(dataclasses.replace(study, model=model))["model_uri"] == uri


def test_a_terminal_of_ascii_gets_escapes(store):
    result = CliRunner(charset="ascii").invoke(main, ["list", "--experiment", "日本"])
    assert result.exit_code == 2
    assert r"\u65e5\u672c" in result.stderr


def test_wide_characters_are_aligned():
    assert aligned([("日本", "a"), ("abcde", "b")]) == ["日本   a", "abcde  b"]


def test_a_running_trial_has_epochs_before_its_tags_are_written(store):
    run_id = search(keep_checkpoints="all", scheduler="full", max_resource=3)
    before = as_json("best", run_id)
    columns = ("trial_id", "epochs", "value", "best", "best_epoch")
    rows = [[each[column] for column in columns] for each in as_json("show", run_id)["trials"]]
    trials = store.search_runs(["1"], "tags.`hpo.kind` = 'trial'")
    assert len(trials) == 3
    for run in trials:  # as a driver leaves them that is killed
        store.update_run(run.info.run_id, status="RUNNING")
        store.delete_tag(run.info.run_id, "hpo.best_epoch")
        store.set_tag(run.info.run_id, "hpo.epochs", "1")  # of the job before

    assert as_json("best", run_id)["epoch"] == before["epoch"] > 0
    assert f"epoch {before['epoch']}" in printed("best", run_id)
    assert [[each[column] for column in columns] for each in as_json("show", run_id)["trials"]] == rows
    assert "epoch 0" not in printed("show", run_id)
