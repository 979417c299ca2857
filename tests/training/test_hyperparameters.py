from __future__ import annotations

from typing import Any

import pytest

from mlflow_hpo.errors import ConfigError
from mlflow_hpo.space import SearchSpace
from mlflow_hpo.training.bundled import BundledTraining
from mlflow_hpo.training.hyperparameters import CHOICES, Hyperparameters, check_value


def test_every_default_is_allowed() -> None:
    for name, value in vars(Hyperparameters()).items():
        assert check_value(name, value) == value


@pytest.mark.parametrize("name", CHOICES)
def test_choices_are_checked(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}: allowed: {CHOICES[name][0]}, .*; got 'foo'"):
        Hyperparameters.parse({name: "foo"})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("learning_rate", 0),
        ("learning_rate", float("nan")),
        ("learning_rate", float("inf")),
        ("learning_rate", "0.1"),
        ("learning_rate", None),
        ("dropout", 1.0),
        ("dropout", -0.1),
        ("dropout", True),
        ("width", 3.5),
        ("layers", 0),
        ("batch_size", 1),
        ("momentum", 1.0),
    ],
)
def test_numbers_out_of_what_is_allowed_are_refused(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"^{name}: must be a (whole )?number (from|above) ") as caught:
        Hyperparameters.parse({name: value})
    assert "\n" not in str(caught.value)


def test_a_space_is_checked_as_a_whole() -> None:
    training = BundledTraining()
    training.check_params(["width", "momentum"])
    with pytest.raises(ConfigError, match=r"^space\.widht: .*did you mean 'width'"):
        training.check_params(["widht"])
    space = SearchSpace({"optimizer": {"type": "categorical", "choices": ["adam", "rmsprop"]}})
    with pytest.raises(ConfigError, match=r"^space\.optimizer: .*got 'rmsprop'"):
        training.check_params(space)
    with pytest.raises(ConfigError, match=r"^space\.dropout: .*got 1\.5"):
        training.check_params(SearchSpace({"dropout": {"type": "float", "low": 0.0, "high": 1.5}}))


def test_momentum_is_ignored_by_other_optimizers() -> None:
    assert Hyperparameters.parse({"optimizer": "adam", "momentum": 0.5}).optimizer == "adam"


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"max_epochs": 0}, "max_epochs: must be a whole number of 1 or more, got 0"),
        ({"seed": -1}, "seed: must be a whole number of 0 or more, got -1"),
        ({"data": 5}, "data: must be text, got 5"),
        ({"target": 5}, "target: must be text, got 5"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        BundledTraining(**settings)
