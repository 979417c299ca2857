import json
import math

import pytest
import yaml

from mlflow_hpo import ConfigError, SearchSpace
from mlflow_hpo.config import StudyConfig, load_config
from mlflow_hpo.yaml_text import as_yaml

SPACE = {"x": {"type": "float", "low": 0.0, "high": 1.0}}
LEAST = {"metric": {"name": "loss", "mode": "min"}, "space": SPACE, "max_resource": 9}


def parse(**changes):
    return StudyConfig.parse(LEAST | changes)


def test_the_least_that_a_study_needs():
    config = parse()
    assert config.metric.name == "loss"
    assert config.space == SearchSpace(SPACE)
    assert (config.searcher, config.scheduler, config.trials, config.workers) == ("auto", "auto", 100, 1)


def test_a_metric_by_name_with_its_mode():
    assert parse(metric="accuracy", mode="max").metric.mode == "max"


def test_a_config_round_trips_through_yaml_and_json():
    config = parse(
        searcher={"name": "tpe", "n_startup": 5},
        scheduler="asha",
        budget={"gpu_hours": 8, "cost": 20, "price_per_gpu_hour": 2.5},
        points=[{"x": 0.5}],
        early_stopping={"patience": 5, "min_delta": 0.01},
        goal=0.1,
        constraints=["latency_ms<=2e1", "recall > 0.90"],
        trials=3,
        register="model",
        keep_checkpoints="all",
    )
    assert StudyConfig.parse(yaml.safe_load(yaml.safe_dump(config.to_dict()))) == config
    assert StudyConfig.parse(json.loads(json.dumps(config.to_dict()))) == config
    assert config.to_dict()["constraints"] == ["latency_ms <= 20", "recall > 0.9"]


def test_a_config_is_frozen():
    with pytest.raises(ValueError, match="frozen"):
        parse().trials = 5


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"warm_start_rename": {"y": "z"}}, "warm_start_rename.y: must be one of x, got 'z'"),
        ({"warm_start_rename": {"x": "x"}}, "warm_start_rename.x: is a parameter of the space itself"),
        (
            {"warm_start_task": "dataset:"},
            "warm_start_task: must be dataset, experiment, tag:NAME or param:NAME, got 'dataset:'",
        ),
        ({"warm_start_task": "tag:"}, "warm_start_task: must be dataset, experiment, tag:NAME or param:NAME"),
        ({"trails": 5}, "trails: is not a known field; did you mean trials? (allowed: metric, space,"),
        ({"budget": {"hour": 5}}, "budget.hour: is not a known field; did you mean hours? (allowed: epochs,"),
        ({"trials": 0}, "trials: must be greater than 0, got 0"),
        ({"trials": "many"}, "trials: must be a valid integer, got 'many'"),
        ({"trials": True}, "trials: must be a valid integer, got True"),
        ({"trials": 2.5}, "trials: must be a valid integer, got 2.5"),
        ({"workers": 0}, "workers: must be greater than 0, got 0"),
        ({"seed": -1}, "seed: must be greater than or equal to 0, got -1"),
        ({"max_resource": 0}, "max_resource: must be greater than 0, got 0"),
        ({"min_resource": 10}, "max_resource: must be at least min_resource (10), got 9"),
        ({"metric": {"name": "loss"}}, "metric.mode: is required"),
        ({"metric": {"name": "loss", "mode": "up"}}, "metric.mode: must be 'max' or 'min', got 'up'"),
        ({"metric": "loss"}, "metric: give its mode too: {name: val_accuracy, mode: max}"),
        ({"mode": "max"}, "mode: goes with a metric that is given by name only"),
        ({"space": {}}, "space: must name at least one parameter"),
        ({"space": {"x": {"type": "float", "low": 2, "high": 1}}}, "space.x.low: must be less than high"),
        ({"max_retries": -1}, "max_retries: must be greater than or equal to 0, got -1"),
        ({"max_retries": 1.5}, "max_retries: must be a valid integer, got 1.5"),
        ({"heartbeat_timeout": 0}, "heartbeat_timeout: must be greater than 0, got 0"),
        ({"trials_per_worker": 0}, "trials_per_worker: must be greater than 0, got 0"),
        ({"budget": {"cost": 5}}, "budget.cost: needs price_per_gpu_hour beside it"),
        ({"budget": {"hours": -1}}, "budget.hours: must be greater than 0, got -1"),
        (
            {"keep_checkpoints": "some"},
            "keep_checkpoints: must be best, best:k (k of 1 or more), last or all, got 'some'",
        ),
        ({"searcher": 5}, "searcher: must be a name, or a mapping with a name and options, got 5"),
        ({"scheduler": {"eta": 3}}, "scheduler: must be a name, or a mapping with a name"),
        ({"constraints": "a < 1"}, "constraints: must be a list such as ['latency_ms <= 20'], got 'a < 1'"),
        ({"constraints": None}, "constraints: must be a list such as ['latency_ms <= 20'], got None"),
        ({"constraints": ["a < 1", "b = 1"]}, "constraints[1]: must be a metric, one of <=, >=, <, > and a"),
        ({"constraints": ["a < 1", {"b": "c < 1"}]}, "constraints[1]: must be a metric, one of <=, >=, <, >"),
        ({"constraints": ["a < 1", "a > 1"]}, "constraints[1]: must leave room beside a < 1, got 'a > 1'"),
        (
            {"constraints": ["a < 1", "loss < 1"]},
            "constraints[1]: must be on another metric than the one that is optimised (a value of that one "
            "at which the study ends is its goal), got 'loss < 1'",
        ),
        ({"name": ""}, "name: must have at least 1 character, got ''"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(changes, line):
    with pytest.raises(ConfigError) as caught:
        parse(**changes)
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", sorted(LEAST))
def test_what_is_missing_is_named(key):
    with pytest.raises(ConfigError, match=f"^{key}: is required"):
        StudyConfig.parse({name: value for name, value in LEAST.items() if name != key})


def test_yaml_reads_exponents_as_numbers(tmp_path):
    path = tmp_path / "search.yaml"
    path.write_text("low: 1e-4\nhigh: 1.5e+3\nname: 1e-4x\n")
    assert load_config(path) == {"low": 1e-4, "high": 1.5e3, "name": "1e-4x"}


def test_json_is_read_by_its_suffix(tmp_path):
    path = tmp_path / "search.json"
    path.write_text('{"trials": 5}')
    assert load_config(path) == {"trials": 5}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "cannot read .*: No such file or directory"),
        (b"\xff\xfe\x00", "cannot read .*: not UTF-8 text"),
        (b"a: [1", "is not valid YAML or JSON"),
        (b"- a\n- b\n", "must hold a mapping of keys, got list"),
        (b"", "must hold a mapping of keys, got NoneType"),
        (b"a: !!python/object/apply:os.system [echo]\n", "is not valid YAML or JSON"),
        (b"trials: 5\nspace:\n  x: {low: 1, high: 2, low: 0}\n", "the key 'low' is given twice .* line 3"),
    ],
)
def test_a_bad_file_is_told_in_one_line(tmp_path, content, problem):
    path = tmp_path / "search.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=f"^config: .*{problem}") as caught:
        load_config(path)
    assert "\n" not in str(caught.value)


def test_a_key_that_is_given_twice_is_told_in_json_too(tmp_path):
    path = tmp_path / "search.json"
    path.write_text('{"trials": 5, "space": {"x": 1, "x": 2}}')
    with pytest.raises(ConfigError, match="not valid YAML or JSON: the key 'x' is given twice"):
        load_config(path)


def test_words_are_texts_and_what_is_merged_may_be_given_again(tmp_path):
    path = tmp_path / "search.yaml"
    path.write_text("a: &a {x: on, y: no}\nb: {<<: *a, y: true}\n")
    assert load_config(path) == {"a": {"x": "on", "y": "no"}, "b": {"x": "on", "y": True}}


def test_texts_that_look_like_numbers_are_written_in_quotes(tmp_path):
    config = parse(name="12e5", space={"x": {"type": "categorical", "choices": ["1e-4", "on", 1e-4]}})
    file = tmp_path / "search.yaml"
    file.write_text(as_yaml(config.to_dict()))
    assert StudyConfig.parse(load_config(file)) == config


@pytest.mark.parametrize("text", ["name: 2024-13-45", "a: 0x_", "[" * 10_000])
def test_values_that_yaml_cannot_read_are_told(tmp_path, text):
    file = tmp_path / "search.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match="search.yaml is not valid YAML or JSON"):
        load_config(file)


@pytest.mark.parametrize(
    "changes",
    [
        {"budget": {"hours": math.inf}},
        {"gpus_per_trial": math.inf},
        {"goal": math.nan},
        {"trial_timeout": math.inf},
    ],
)
def test_limits_are_finite(changes):
    with pytest.raises(ConfigError, match="must be a finite number"):
        parse(**changes)
