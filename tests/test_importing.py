"""Settings of other tools: what they are here, and what is said of those that are nothing here."""

import json

import optuna
import pytest
import yaml
from click.testing import CliRunner
from snippets import ROOT, snippets

from mlflow_hpo.cli import main
from mlflow_hpo.config import StudyConfig, load_config

SWEEP = {
    "method": "random",
    "metric": {"name": "loss"},
    "run_cap": 5,
    "parameters": {"x": {"min": 0.0, "max": 1.0}},
}


@pytest.fixture
def imported(tmp_path):
    """What `mlflow-hpo import` makes of settings: the keys, its text, and its exit code."""

    def run(settings, *flags):
        file = tmp_path / "theirs.yaml"
        file.write_text(settings if isinstance(settings, str) else yaml.safe_dump(settings, sort_keys=False))
        done = CliRunner().invoke(main, ["import", str(file), *flags])
        return yaml.safe_load(done.stdout) if done.exit_code != 2 else None, done.output, done.exit_code

    return run


def space_of(imported, **parameters):
    keys, text, code = imported(SWEEP | {"parameters": parameters})
    return keys["space"] or {}, text, code


def test_the_sweep_of_the_guide_is_the_search_beside_it(imported):
    sweep, search = [each for each in snippets(ROOT / "docs" / "coming-from.md") if each.language == "yaml"][
        :2
    ]
    keys, text, code = imported(sweep.text)
    assert code == 0
    assert keys == yaml.safe_load(search.text)
    assert [line for line in text.splitlines() if line.startswith("#")] == [
        "# program: name it as the entry point of an MLflow project (docs/projects.md), or make it a function"
    ]
    StudyConfig.parse(keys)


def test_the_spaces_of_the_guide_are_read(imported):
    of_optuna, of_ray = [
        each for each in snippets(ROOT / "docs" / "coming-from.md") if each.language == "yaml"
    ][2:]
    keys, _, code = imported(of_optuna.text)
    assert code == 0
    assert keys["space"] == {
        "learning_rate": {"type": "float", "low": 0.0001, "high": 0.1, "log": True},
        "optimizer": {"type": "categorical", "choices": ["adam", "sgd"]},
    }
    keys, _, code = imported(of_ray.text)
    assert code == 0
    assert keys["space"] == {
        "learning_rate": {"type": "float", "low": 0.0001, "high": 0.1, "log": True},
        "batch_size": {"type": "categorical", "choices": [32, 64, 128]},
        "layers": {"type": "int", "low": 1, "high": 4},
    }


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ({"value": 3}, {"type": "categorical", "choices": [3]}),
        ({"values": ["a", "b"]}, {"type": "categorical", "choices": ["a", "b"]}),
        ({"min": 1, "max": 4}, {"type": "int", "low": 1, "high": 4}),
        ({"min": 1, "max": 4.0}, {"type": "float", "low": 1, "high": 4.0}),
        ({"distribution": "int_uniform", "min": 1, "max": 1}, {"type": "categorical", "choices": [1]}),
        (
            {"distribution": "q_uniform", "min": 0, "max": 8, "q": 2},
            {"type": "int", "low": 0, "high": 8, "step": 2},
        ),
        (
            {"distribution": "q_uniform", "min": 0.1, "max": 0.3, "q": 0.1},
            {"type": "float", "low": 0.1, "high": 0.3, "step": 0.1},
        ),
        (
            {"distribution": "q_log_uniform_values", "min": 16, "max": 512},
            {"type": "int", "low": 16, "high": 512, "log": True},
        ),
        ({"distribution": "log_uniform", "min": 0, "max": 0}, {"type": "categorical", "choices": [1.0]}),
    ],
)
def test_parameters_of_sweeps(imported, theirs, ours):
    space, _, code = space_of(imported, x=theirs)
    assert (space, code) == ({"x": ours}, 0)


@pytest.mark.parametrize(
    ("theirs", "why"),
    [
        ({"distribution": "normal", "mu": 0, "sigma": 1}, "the distribution normal"),
        ({"values": [1, 2], "probabilities": [0.9, 0.1]}, "choices with probabilities"),
        ({"parameters": {"y": {"value": 1}}}, "nested parameters"),
        ({"distribution": "uniform", "min": 1}, "uniform without min and max"),
        ({"distribution": "uniform", "min": "a", "max": 1}, "'a' is no finite number"),
        (
            {"distribution": "q_uniform", "min": 0, "max": 1, "q": 0.3},
            "steps of 0.3 that do not meet 0 and 1",
        ),
        (
            {"distribution": "q_log_uniform_values", "min": 1, "max": 9, "q": 2},
            "steps of 2 on a logarithmic scale",
        ),
        ({"distribution": "log_uniform_values", "min": 0, "max": 1}, "low: "),
        ({"values": [[1, 2], [3]]}, "choices: "),
        ({"min": 5, "max": 1}, "low: must be less than high"),
        ("x\n", "'x\\n' is no parameter"),
    ],
)
def test_parameters_without_a_counterpart_are_told(imported, theirs, why):
    space, text, code = space_of(imported, x=theirs, y={"value": 1})
    assert list(space) == ["y"]
    assert code == 1
    assert f"# space.x is left out: {why}" in text.replace("\\\\n", "\\n")


def test_what_a_sweep_says_beside_its_parameters(imported):
    keys, text, _ = imported(
        SWEEP
        | {"metric": {"name": "acc", "goal": "maximize", "target": 0.9}, "method": "bayes", "project": "team"}
    )
    assert keys["metric"] == {"name": "acc", "mode": "max"}
    assert (keys["goal"], keys["searcher"], keys["experiment"], keys["scheduler"]) == (
        0.9,
        "gp",
        "team",
        "full",
    )
    assert "# searcher: gp needs the extra" in text
    assert "# max_resource: add" in text
    assert "max_resource" not in keys
    keys, text, _ = imported(SWEEP | {"early_terminate": {"type": "hyperband", "min_iter": 3}, "odd": 1})
    assert (keys["scheduler"], keys["min_resource"]) == ({"name": "asha_stopping", "eta": 3}, 3)
    assert "# odd: has no counterpart" in text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "annealing"}, "error: method: must be one of random, grid, bayes, got 'annealing'"),
        (
            {"metric": {"name": "x", "goal": "up"}},
            "error: metric.goal: must be one of minimize, maximize, got 'up'",
        ),
        ({"early_terminate": {"type": "envelope"}}, "error: early_terminate.type: must be one of hyperband"),
        ({"run_cap": -1}, "error: trials: must be greater than 0, got -1"),
    ],
)
def test_wrong_sweeps_are_exit_code_2(imported, changes, message):
    _, text, code = imported(SWEEP | changes)
    assert code == 2
    assert text.startswith(message)


def test_what_optuna_writes_is_read(imported):
    written = {
        "a": optuna.distributions.FloatDistribution(0.0, 1.0, step=0.25),
        "b": optuna.distributions.FloatDistribution(1e-5, 1.0, log=True),
        "c": optuna.distributions.IntDistribution(1, 9, step=2),
        "d": optuna.distributions.IntDistribution(1, 9),
        "e": optuna.distributions.CategoricalDistribution(["x", None, True]),
    }
    keys, _, code = imported(
        {name: optuna.distributions.distribution_to_json(each) for name, each in written.items()}
    )
    assert code == 0
    assert keys["space"] == {
        "a": {"type": "float", "low": 0.0, "high": 1.0, "step": 0.25},
        "b": {"type": "float", "low": 1e-5, "high": 1.0, "log": True},
        "c": {"type": "int", "low": 1, "high": 9, "step": 2},
        "d": {"type": "int", "low": 1, "high": 9},
        "e": {"type": "categorical", "choices": ["x", None, True]},
    }


def test_calls_of_ray_are_read_and_never_made(imported, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    keys, text, code = imported(
        {
            "a": "tune.quniform(0.1, 0.5, 0.1)",
            "b": "tune.lograndint(1, 65)",
            "c": "tune.grid_search([1, 2])",
            "d": 'open("pwned", "w")',
            "e": "tune.uniform(open('pwned', 'w'), 1)",
            "f": "tune.sample_from(lambda spec: 1)",
            "g": "tune.uniform(0, 1, 2)",
            "h": "tune.randn()",
            "i": ["a", "list"],
            "j": "(" * 10_000 + ")",
        }
    )
    assert keys["space"] == {
        "a": {"type": "float", "low": 0.1, "high": 0.5, "step": 0.1},
        "b": {"type": "int", "low": 1, "high": 64, "log": True},
        "c": {"type": "categorical", "choices": [1, 2]},
    }
    assert code == 1
    assert text.count("is left out") == 7
    assert not (tmp_path / "pwned").exists()


def test_nothing_hostile_gets_out_of_its_place(imported):
    name = "x\n# y: z\x1b[31m\u202e"
    keys, text, code = imported(
        SWEEP | {"name": name, "parameters": {"p": {"values": [name]}, name: {"mu": 1}}}
    )
    assert text.isascii()
    assert all(char.isprintable() or char == "\n" for char in text)
    assert (keys["name"], keys["space"]["p"]["choices"], code) == (name, [name], 1)


def test_as_json(imported):
    _, text, code = imported(SWEEP | {"parameters": {"x": {"mu": 1}, "y": {"value": 1}}}, "--json")
    told = json.loads(text)
    assert set(told) == {"search", "left_out", "notes"}
    assert list(told["left_out"]) == ["x"]
    assert told["search"]["space"] == {"y": {"type": "categorical", "choices": [1]}}
    assert code == 1


def test_texts_that_look_like_numbers_stay_texts(imported, tmp_path):
    _, text, code = imported('{"method": "random", "metric": {"name": "l"}, "run_cap": 1, '
                             '"parameters": {"lr": {"values": ["1e-4", "1e-3"]}}}')  # fmt: skip
    assert code == 0
    (tmp_path / "ours.yaml").write_text(text)
    assert load_config(tmp_path / "ours.yaml")["space"]["lr"]["choices"] == ["1e-4", "1e-3"]


def test_names_that_mlflow_does_not_take_are_left_out(imported):
    low = {"min": 0.0, "max": 1.0}
    space, text, code = space_of(imported, **{"opt@x": low, "y": low, "long " + "z" * 150: low})
    assert list(space) == ["y", "long " + "z" * 150]
    assert "# space.opt@x is left out: " in text
    assert code == 1


def test_a_sweep_of_which_nothing_is_left_says_why(imported):
    space, text, code = space_of(imported, x={"distribution": "normal", "mu": 0, "sigma": 1})
    assert (space, code) == ({}, 1)
    assert "# space.x is left out: the distribution normal" in text


def test_more_brackets_than_there_are_epochs(imported):
    rule = {"type": "hyperband", "max_iter": 27, "s": 2000}
    keys, _, code = imported(SWEEP | {"early_terminate": rule})
    assert (keys["min_resource"], code) == (1, 0)
