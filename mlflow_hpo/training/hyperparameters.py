"""What can be tuned in the bundled training, with defaults and limits."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mlflow_hpo.checks import did_you_mean, shown
from mlflow_hpo.errors import ConfigError

CHOICES: Mapping[str, tuple[str, ...]] = {
    "optimizer": ("adam", "adamw", "sgd"),
    "normalisation": ("none", "batch", "layer"),
    "schedule": ("constant", "cosine", "onecycle"),
}
# name -> (lowest, highest, whether the lowest itself is allowed)
_LIMITS: Mapping[str, tuple[float, float, bool]] = {
    "learning_rate": (0.0, 100.0, False),
    "weight_decay": (0.0, 10.0, True),
    "momentum": (0.0, 0.9999, True),
    "beta1": (0.0, 0.9999, True),  # the bundled training has these two as they are
    "beta2": (0.0, 0.999999, True),
    "batch_size": (2, 65536, True),
    "layers": (1, 16, True),
    "width": (2, 8192, True),
    "dropout": (0.0, 0.95, True),
    "label_smoothing": (0.0, 0.95, True),
}


@dataclass(frozen=True)
class Hyperparameters:
    """One configuration of the bundled training; every value has a default.

    Attributes:
        optimizer: adam, adamw or sgd.
        learning_rate: its peak, before the schedule.
        weight_decay: decoupled for adamw, L2 for the others.
        momentum: Nesterov momentum, of sgd only; the others ignore it.
        batch_size: rows a step, at most; batches of one epoch are of equal size as far as possible.
        layers: hidden layers of the MLP, convolutions of the CNN.
        width: units of each hidden layer, channels of each convolution.
        dropout: share of the units, or of the CNN's last features, left out in training.
        normalisation: none, batch, or layer (over all channels in the CNN).
        schedule: constant, cosine, or onecycle (warm-up over the first 30 %), over the training's horizon.
        label_smoothing: of the classification loss in training; regression ignores it.

    >>> Hyperparameters.parse({"optimizer": "sgd", "layers": 3}).layers
    3
    >>> Hyperparameters.parse({"optimizer": "rmsprop"})
    Traceback (most recent call last):
        ...
    mlflow_hpo.errors.ConfigError: optimizer: allowed: adam, adamw, sgd; got 'rmsprop'
    """

    optimizer: str = "adam"
    learning_rate: float = 3e-3
    weight_decay: float = 0.0
    momentum: float = 0.9
    batch_size: int = 64
    layers: int = 2
    width: int = 32
    dropout: float = 0.1
    normalisation: str = "batch"
    schedule: str = "cosine"
    label_smoothing: float = 0.0

    @classmethod
    def parse(cls, params: Mapping[str, Any]) -> Hyperparameters:
        """Check names and values; what is not given takes its default.

        Raises:
            ConfigError: naming the hyperparameter and what is allowed.
        """
        check_names(params)
        values: dict[str, Any] = {name: check_value(name, value) for name, value in params.items()}
        return cls(**values)


NAMES = tuple(field.name for field in dataclasses.fields(Hyperparameters))


def check_names(names: Iterable[str]) -> None:
    """Raise ConfigError for the first of `names` that the training does not know.

    >>> check_names(["learning_rate", "widht"])
    Traceback (most recent call last):
        ...
    mlflow_hpo.errors.ConfigError: widht: the bundled training has no such hyperparameter; allowed: \
optimizer, learning_rate, weight_decay, momentum, batch_size, layers, width, dropout, normalisation, \
schedule, label_smoothing; did you mean 'width'?
    """
    for name in names:
        if name not in NAMES:
            allowed = f"allowed: {', '.join(NAMES)}{did_you_mean(name, NAMES)}"
            raise ConfigError(name, f"the bundled training has no such hyperparameter; {allowed}")


def check_value(name: str, value: Any) -> str | int | float:
    """Return the value of the hyperparameter `name` in its own type.

    Raises:
        ConfigError: `value` is of another type, or out of what is allowed.

    >>> check_value("width", 32.0)
    32
    """
    if name in CHOICES:
        if value not in CHOICES[name]:
            close = did_you_mean(value, CHOICES[name])
            raise ConfigError(name, f"allowed: {', '.join(CHOICES[name])}; got {shown(value)}{close}")
        return str(value)
    low, high, inclusive = _LIMITS[name]
    whole = isinstance(getattr(Hyperparameters, name, 0.0), int)
    kind = "a whole number" if whole else "a number"
    interval = f"{'from' if inclusive else 'above'} {low:g} to {high:g}"
    try:
        number = None if isinstance(value, bool | str) else float(value)
    except (TypeError, ValueError):
        number = None
    if number is None or (whole and not number.is_integer()):
        raise ConfigError(name, f"must be {kind} {interval}, got {shown(value)}")
    if not (low <= number <= high) or (number == low and not inclusive):
        raise ConfigError(name, f"must be {kind} {interval}, got {shown(value)}")
    return int(number) if whole else number
