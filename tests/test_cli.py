import json
import os
import re
import subprocess
import sys
from pathlib import Path

import mlflow
import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from sklearn.datasets import load_diabetes, load_digits

from mlflow_hpo import cli
from mlflow_hpo.cli import main

SMALL = ["--trials", "3", "--max-epochs", "3", "--workers", "1"]


def invoke(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def only_study(store):
    experiment = store.get_experiment_by_name("test").experiment_id
    [parent] = store.search_runs([experiment], "tags.`hpo.kind` = 'study'")
    return parent


def test_the_main_job_searches_trains_and_leaves_a_model(store):
    result = invoke("run", *SMALL, "--register", "digits")
    assert result.exit_code == 0, result.output
    parent = only_study(store)
    assert parent.info.status == "FINISHED"
    assert parent.data.params["hpo.trials"] == "3"
    assert parent.data.params["hpo.searcher"] == "tpe"  # not given: as the bundled file says
    assert parent.data.tags["hpo.task"] == "digits"

    images = load_digits().images[:20]
    model = mlflow.pyfunc.load_model("models:/digits/1")
    assert model.metadata.run_id == parent.info.run_id
    example = model.input_example
    predictions = model.predict(images.reshape(20, *example.shape[1:]).astype(example.dtype))
    assert len(predictions) == 20

    best = json.loads(invoke("best", parent.info.run_id, "--json").stdout)
    assert best["model_uri"] == f"runs:/{parent.info.run_id}/model"
    assert mlflow.pyfunc.load_model(best["model_uri"]).metadata.run_id == parent.info.run_id

    shown = invoke("show", parent.info.run_id)
    assert shown.exit_code == 0, shown.output
    start = f"study {parent.info.run_name} ({parent.info.run_id}) FINISHED"
    ending = result.stdout[result.stdout.index(start) :]
    without_times = [re.sub(r"[\d.]+s\b", "", text).strip() for text in (ending, shown.stdout)]
    assert without_times[0] == without_times[1]


def test_plain_output_is_one_line_an_event(store):
    result = invoke("run", *SMALL)
    lines = result.output.splitlines()
    assert lines[0].startswith("study ")
    assert sum(line.startswith("trial ") and "at epoch" in line for line in lines) >= 3
    assert lines[-2].startswith("saved: ")
    assert lines[-1].startswith("look:  mlflow ui --backend-store-uri sqlite:///")


def test_a_table_of_ones_own_and_a_file_that_flags_override(store, tmp_path):
    frame = load_diabetes(as_frame=True).frame
    frame.to_csv(tmp_path / "table.csv", index=False)
    config = {
        "data": "table.csv",
        "target": "target",
        "space": {"learning_rate": {"type": "float", "low": 1e-3, "high": 1e-2}},
        "searcher": "random",
        "max_resource": 2,
        "trials": 50,
        "seed": 5,
    }
    (tmp_path / "search.yaml").write_text(yaml.safe_dump(config))
    result = invoke("run", "--config", "search.yaml", "--trials", "2", "--seed", "")
    assert result.exit_code == 0, result.output
    parent = only_study(store)
    assert (parent.data.params["hpo.trials"], parent.data.params["hpo.seed"]) == ("2", "5")
    assert (parent.data.tags["hpo.metric"], parent.data.tags["hpo.mode"]) == ("val_rmse", "min")


def bad_csv(tmp_path):
    (tmp_path / "one.csv").write_text("a,y\n" + "1,x\n2,x\n3,x\n" * 5)
    (tmp_path / "empty.csv").write_text("")
    np.savez(tmp_path / "odd.npz", X=np.zeros((3, 2)))


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--trials", "0"], "error: trials: must be greater than 0, got 0"),
        (["--max-epochs", "0"], "error: max_resource: "),
        (["--workers", "-1"], "error: workers: must be greater than 0, got -1"),
        (["--searcher", "tpee"], "error: searcher: must be one of"),
        (["--scheduler", "hyperbandit"], "error: scheduler: must be one of"),
        (["--launcher", "slurm"], "error: launcher: must be one of"),
        (["--launcher", "project"], "error: launcher: "),
        (["--data", "nowhere.csv", "--target", "y"], "error: data: "),
        (["--data", "one.csv"], "error: target: "),
        (["--data", "one.csv", "--target", "z"], "error: target: "),
        (["--data", "one.csv", "--target", "y"], "error: target: "),
        (["--data", "empty.csv", "--target", "y"], "error: data: "),
        (["--data", "odd.npz"], "error: data: "),
        (["--data", "table.txt"], "error: data: "),
        (["--config", "nowhere.yaml"], "error: config: cannot read nowhere.yaml: No such file or directory"),
        (["--config", "metric.yaml"], "error: metric.name: must be one that the training logs ("),
        (["--config", "space.yaml"], "error: "),
        (["--config", "list.yaml"], "error: config: list.yaml must hold a mapping of keys, got list"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2_and_nothing_is_launched(store, tmp_path, arguments, line):
    bad_csv(tmp_path)
    least = {"space": {"learning_rate": {"type": "float", "low": 0.1, "high": 1}}, "max_resource": 2}
    wrong_metric = least | {"metric": {"name": "val_acuracy", "mode": "max"}}
    (tmp_path / "metric.yaml").write_text(yaml.safe_dump(wrong_metric))
    unknown = least | {"space": {"learning_rat": {"type": "float", "low": 0.1, "high": 1}}}
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(unknown))
    (tmp_path / "list.yaml").write_text("[1, 2]")
    result = invoke("run", *arguments)
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith(line)
    assert len(result.stderr.splitlines()) == 1
    assert "Traceback" not in result.output
    assert store.get_experiment_by_name("test") is None


def test_a_flag_of_the_wrong_type_is_wrong_usage(store):
    result = invoke("run", "--trials", "many")
    assert result.exit_code == 2
    assert "'many' is not a valid integer" in result.stderr


@pytest.mark.parametrize("run_id", ["0" * 32, "not a run"])
def test_show_wants_a_study(store, run_id):
    result = invoke("show", run_id)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: run_id: no such run")


def test_show_refuses_a_run_that_is_no_study(store):
    run = store.create_run("0")
    result = invoke("show", run.info.run_id)
    assert result.exit_code == 2
    assert "is not the parent run of a study" in result.stderr


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (
            ZeroDivisionError("division\nby zero"),
            1,
            "error: ZeroDivisionError: division by zero (--debug shows",
        ),
    ],
)
def test_exit_codes_of_what_nobody_expects(monkeypatch, error, code, text):
    def explode(*_):
        raise error

    monkeypatch.setattr(cli, "bundled_study", explode)
    result = invoke("run")
    assert result.exit_code == code
    assert result.stderr.startswith(text)


def test_where_nobody_reads_the_output_nothing_is_said(store):
    """As with ``mlflow-hpo list | head -1``."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "mlflow_hpo", "list"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.stderr, done.returncode) == ("", 1)


def test_debug_shows_the_traceback(monkeypatch):
    def explode(*_):
        raise ZeroDivisionError

    monkeypatch.setattr(cli, "bundled_study", explode)
    assert isinstance(invoke("run", "--debug").exception, ZeroDivisionError)


@pytest.mark.parametrize("command", [[], ["run"], ["show"], ["list"], ["best"], ["export"], ["doctor"]])
def test_help_explains_every_option(command):
    result = invoke(*command, "--help")
    assert result.exit_code == 0
    options = re.findall(r"^  (-\S.*)$", result.output, re.MULTILINE)
    assert options
    assert all(
        re.search(r"\S  +\S", line) or line.endswith(("TEXT", "FILE", "COLUMN", "NAME", "INTEGER"))
        for line in options
    )


def test_the_guide_shows_every_command():
    guide = (Path(__file__).parents[1] / "docs" / "cli.md").read_text()
    assert {name for name in main.commands if f"\nmlflow-hpo {name}" not in guide} == set()


def test_the_version_is_that_of_the_package():
    assert re.search(r"\d+\.\d+\.\d+", invoke("--version").output)
