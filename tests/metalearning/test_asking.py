"""What `mlflow-hpo suggest` and `history` say to those who search code of their own."""

import json

import mlflow
import pytest
import trainings
import yaml
from click.testing import CliRunner
from scripted import logged

from mlflow_hpo import Study
from mlflow_hpo.cli import main
from mlflow_hpo.training.bundled import BundledTraining

KEYS = {
    "metric": {"name": "loss", "mode": "min"},
    "space": trainings.SPACE,
    "searcher": "random",
    "scheduler": "full",
    "max_resource": 3,
    "trials": 4,
}


def asked(*arguments, code=0):
    result = CliRunner().invoke(main, [*map(str, arguments)])
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture
def runs(store, monkeypatch):
    """Plain runs of a script, best at x = 0; the bundled training and its data are not to be touched."""

    def untouched(*arguments, **keys):
        raise AssertionError("the bundled training was made")

    monkeypatch.setattr(BundledTraining, "__init__", untouched)
    return [
        logged(store, [(1, 1 + x * x), (2, x * x)], {"x": x, "kind": "round"})
        for x in (-0.8, -0.4, 0, 0.4, 0.8)
    ]


@pytest.fixture
def written(tmp_path):
    def write(keys, name="search.yaml"):
        path = tmp_path / name
        path.write_text(json.dumps(keys) if name.endswith(".json") else yaml.safe_dump(keys, sort_keys=False))
        return path

    return write


def test_they_say_what_a_study_of_ones_own_function_begins_with(store, runs, written):
    file = written(KEYS)
    lines = asked("suggest", "--config", file, "--top", 2).splitlines()
    assert lines[0] == "5 trials on 1 task in all experiments say what to try"
    assert lines[1] == "1. x=0 kind=round"
    assert lines[2].endswith(f"from plain runs in plain, run {runs[2]}")
    assert "100%      5 trials  plain runs in plain" in asked("history", "--config", file)

    told = json.loads(asked("suggest", "--config", file, "--history", "plain", "--json"))
    warm = written(KEYS | {"warm_start": ["plain"]}, "warm.yaml")
    assert json.loads(asked("suggest", "--config", warm, "--json")) == told
    assert asked("suggest", "--config", warm, "--history", "auto", "--top", 2).splitlines() == lines
    study = Study(trainings.quick, **KEYS, warm_start=["plain"])
    study.run()
    began = json.loads(mlflow.artifacts.load_text(f"runs:/{study.run_id}/warm_start.json"))
    assert told == began


@pytest.mark.parametrize(
    "more",
    [
        {"project": {"resource_parameter": "epochs"}},
        {"launcher": "project", "data": "of no effect there"},
        {"resume": "0123456789abcdef", "take_over": True},
        {"project": {"steps": "count"}, "warm_start": ["plain"]},
    ],
)
def test_the_file_of_a_project_is_taken_as_it_is(runs, written, more):
    file = written(KEYS | more, "search.json")
    assert "1. x=0 kind=round" in asked("suggest", "--config", file)
    assert "plain runs in plain" in asked("history", "--config", file)


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ({"metric": KEYS["metric"]}, "space: "),
        (KEYS | {"project": {"resource": "epochs"}}, "project.resource: is not a known field"),
        (KEYS | {"launcher": "local", "project": {}}, "project: is for `mlflow run --backend hpo`"),
        (KEYS | {"trails": 9}, "trails: is not a known field; did you mean trials?"),
    ],
)
def test_what_is_wrong_with_a_file_is_told(runs, written, keys, problem):
    assert problem in asked("suggest", "--config", written(keys), code=2)


@pytest.mark.parametrize(
    ("keys", "flags"),
    [
        (KEYS, ("--data", "wine")),
        (KEYS | {"data": "wine"}, ()),
        ({name: KEYS[name] for name in KEYS if name != "metric"}, ()),
    ],
)
def test_a_file_that_is_for_the_bundled_training_is_checked_against_it(store, written, keys, flags):
    told = asked("suggest", "--config", written(keys), *flags, code=2)
    assert "the bundled training has no such hyperparameter" in told
