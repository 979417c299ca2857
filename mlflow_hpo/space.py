"""SearchSpace: which configurations there are."""

from __future__ import annotations

import dataclasses
import math
import posixpath
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, ClassVar

import numpy as np

from mlflow_hpo.checks import did_you_mean, finite_number, one_of, shown, whole_number
from mlflow_hpo.errors import ConfigError

Config = dict[str, Any]
"""A configuration: name -> value of exactly the active parameters, parents before children."""

Choice = str | int | float | bool | None
"""What a categorical parameter may take."""

MAX_NAME = 250  # characters, as MLflow limits the keys of params
MAX_TEXT = 6000  # characters, as MLflow limits the values of params
_NAME = re.compile(r"[\w.\- :/]+")  # as MLflow, which takes names for paths
_LARGEST_INT = 2**53  # integers up to here are exact as floats


@dataclass(frozen=True, kw_only=True)
class Parameter(ABC):
    """One parameter of a search space.

    Every parameter maps the unit interval onto its values and back. Equal lengths of the unit interval are
    equally likely under the prior, so that whoever works on the unit cube need not know the kinds of
    parameters.

    Attributes:
        when: the condition under which the parameter is active: other parameter -> its allowed values.
            All keys must hold; without keys the parameter is always active.
    """

    type: ClassVar[str]

    when: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.when, Mapping):
            raise ConfigError("when", f"must map other parameters to values, got {shown(self.when)}")
        when = {}
        for other, values in self.when.items():
            values = tuple(values) if isinstance(values, list | tuple) else (values,)
            if not values:
                raise ConfigError(f"when.{other}", "must name at least one value, got an empty list")
            when[other] = values
        self._set("when", when)

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)  # normalises a field of this frozen dataclass

    def is_active(self, config: Mapping[str, Any]) -> bool:
        """Whether the parameter is active beside `config`, which holds the active ones of its ancestors."""
        return all(other in config and config[other] in values for other, values in self.when.items())

    @abstractmethod
    def validate(self, value: Any) -> Any:
        """Return `value` as a plain Python value of this parameter.

        Raises:
            ConfigError: with an empty field; `value` is none of the parameter's values.
        """

    @property
    @abstractmethod
    def size(self) -> int | None:
        """How many values there are; None where they are continuous."""

    @abstractmethod
    def value(self, index: int) -> Any:
        """Return the value at `index` in 0 .. `size` - 1, numbers in ascending order."""

    @abstractmethod
    def from_unit(self, unit: float) -> Any:
        """Return the value at `unit` in [0, 1]."""

    @abstractmethod
    def to_unit(self, value: Any) -> float:
        """Return the place in [0, 1] of a valid `value`; whole numbers and choices stand amid their share."""

    def format(self, value: Any) -> str:
        """Return a valid `value` as text that `parse` reads back exactly."""
        return str(value)

    @abstractmethod
    def parse(self, text: str) -> Any:
        """Return the value that `text` stands for; raises `ConfigError` as `validate` does."""

    def to_dict(self) -> dict[str, Any]:
        """Return the parameter as it is written in a search space, without what stands at its default."""
        written: dict[str, Any] = {"type": self.type}
        for option in dataclasses.fields(self):
            value = getattr(self, option.name)
            if option.name != "when" and value != option.default:
                written[option.name] = list(value) if isinstance(value, tuple) else value
        if self.when:
            written["when"] = {
                other: values[0] if len(values) == 1 else list(values) for other, values in self.when.items()
            }
        return written


@dataclass(frozen=True, kw_only=True)
class FloatParameter(Parameter):
    """A real number in [low, high]: uniform, log-uniform (`log`), or one of ``low + k * step``.

    The values of a grid are the floats nearest to the decimal numbers as written: 0.3, not 0.1 + 2 * 0.1.
    """

    type = "float"

    low: float
    high: float
    log: bool = False
    step: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set("low", finite_number("low", self.low))
        self._set("high", finite_number("high", self.high))
        _check_range(self.low, self.high, self.log, self.step)
        if not math.isfinite(self.high - self.low):
            raise ConfigError("high", f"must not be further from low than a float holds, got {self.high!r}")
        if self.step is not None:
            self._set("step", finite_number("step", self.step, above=0))
            if self._steps()[2] < 2:
                raise ConfigError("step", f"must be at most high - low, got {self.step!r}")

    def _steps(self) -> tuple[Fraction, Fraction, int]:
        """Return the grid as (low, step, number of values), exactly."""
        low, high, step = (Fraction(repr(number)) for number in (self.low, self.high, self.step))
        return low, step, int((high - low) // step) + 1

    def validate(self, value: Any) -> float:
        """Return `value` as a float, on a grid as the grid's nearest one."""
        number = finite_number("", value)
        if not self.low <= number <= self.high:
            raise ConfigError("", f"must be within [{self.low!r}, {self.high!r}], got {shown(value)}")
        if self.step is None:
            return number
        low, step, size = self._steps()
        k = min(round((Fraction(number) - low) / step), size - 1)
        nearest = float(low + k * step)
        if abs(number - nearest) > 1e-9 * self.step:
            raise ConfigError("", f"must be {self.low!r} + k * {self.step!r}, got {shown(value)}")
        return nearest

    @property
    def size(self) -> int | None:
        """How many values the grid has; None without `step`."""
        return None if self.step is None else self._steps()[2]

    def value(self, index: int) -> float:
        """Return ``low + index * step``."""
        low, step, _ = self._steps()
        return float(low + index * step)

    def from_unit(self, unit: float) -> float:
        """Return the number at `unit`; rounding never leaves [low, high]."""
        if self.step is not None:
            return self.value(_share(unit, self._steps()[2]))
        if self.log:
            value = math.exp(math.log(self.low) * (1 - unit) + math.log(self.high) * unit)
        else:
            value = self.low + unit * (self.high - self.low)
        return min(max(value, self.low), self.high)

    def to_unit(self, value: float) -> float:
        """Return the place of `value` on the (log) scale."""
        if self.step is not None:
            first, step, size = self._steps()
            return (round((Fraction(value) - first) / step) + 0.5) / size
        low, high = self.low, self.high
        if self.log:
            low, value, high = math.log(low), math.log(value), math.log(high)
        return min(max((value - low) / (high - low), 0.0), 1.0)

    def parse(self, text: str) -> float:
        """Return the number that `text` writes."""
        return self.validate(_number_of(text))


@dataclass(frozen=True, kw_only=True)
class IntParameter(Parameter):
    """A whole number in [low, high]: uniform, log-uniform (`log`), or one of ``low + k * step``.

    Log-uniform means rounded from a log-uniform number in [low - 1/2, high + 1/2], so that both ends get the
    share that their neighbours get.
    """

    type = "int"

    low: int
    high: int
    log: bool = False
    step: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set("low", whole_number("low", self.low))
        self._set("high", whole_number("high", self.high))
        _check_range(self.low, self.high, self.log, self.step)
        for name, number in (("low", self.low), ("high", self.high)):
            if abs(number) > _LARGEST_INT:
                raise ConfigError(name, f"must be within -2**53 .. 2**53, got {number}")
        if self.step is not None:
            self._set("step", whole_number("step", self.step, at_least=1))
            if self.step > self.high - self.low:
                raise ConfigError("step", f"must be at most high - low, got {self.step}")

    def _grid(self) -> tuple[int, int]:
        """Return the linear grid as (step, number of values)."""
        step = 1 if self.step is None else self.step
        return step, (self.high - self.low) // step + 1

    @property
    def size(self) -> int:
        """How many whole numbers there are."""
        return self._grid()[1]

    def value(self, index: int) -> int:
        """Return ``low + index * step``."""
        return self.low + index * self._grid()[0]

    def _log_range(self) -> tuple[float, float]:
        return math.log(self.low - 0.5), math.log(self.high + 0.5)

    def validate(self, value: Any) -> int:
        """Return `value` as an int; 3.0 is one."""
        number = whole_number("", value)
        if not self.low <= number <= self.high:
            raise ConfigError("", f"must be within [{self.low}, {self.high}], got {shown(value)}")
        if self.step is not None and (number - self.low) % self.step:
            raise ConfigError("", f"must be {self.low} + k * {self.step}, got {shown(value)}")
        return number

    def from_unit(self, unit: float) -> int:
        """Return the whole number that `unit` falls to."""
        if self.log:
            low, high = self._log_range()
            return min(max(round(math.exp(low + unit * (high - low))), self.low), self.high)
        return self.value(_share(unit, self.size))

    def to_unit(self, value: int) -> float:
        """Return the place of `value` on the (log) scale."""
        if self.log:
            low, high = self._log_range()
            return (math.log(value) - low) / (high - low)
        step, size = self._grid()
        return ((value - self.low) // step + 0.5) / size

    def parse(self, text: str) -> int:
        """Return the whole number that `text` writes."""
        try:
            return self.validate(int(text))
        except ValueError as error:
            if isinstance(error, ConfigError):
                raise
            return self.validate(_number_of(text))  # "3.0" is whole too


@dataclass(frozen=True, kw_only=True)
class CategoricalParameter(Parameter):
    """One of `choices`, without order, each equally likely."""

    type = "categorical"

    choices: tuple[Choice, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.choices, list | tuple):
            raise ConfigError("choices", f"must be a list, got {shown(self.choices)}")
        if not self.choices:
            raise ConfigError("choices", "must name at least one choice, got an empty list")
        texts: dict[str, Choice] = {}
        for choice in self.choices:
            if not isinstance(choice, str | int | float | bool | None):
                raise ConfigError("choices", f"must be text, numbers, booleans or null, got {shown(choice)}")
            if isinstance(choice, float) and not math.isfinite(choice):
                raise ConfigError("choices", f"must be finite, got {choice!r}")
            text = str(choice)
            if len(text) > MAX_TEXT:
                raise ConfigError("choices", f"must be at most {MAX_TEXT} characters long, got {len(text)}")
            if choice in texts.values():
                raise ConfigError("choices", f"must differ, got {shown(choice)} twice")
            if text in texts:
                raise ConfigError(
                    "choices", f"must differ as text, got {shown(texts[text])} and {shown(choice)}"
                )
            texts[text] = choice
        self._set("choices", tuple(self.choices))

    def validate(self, value: Any) -> Choice:
        """Return the choice that equals `value`; a boolean equals no number."""
        if isinstance(value, np.generic):
            value = value.item()
        if isinstance(value, str | int | float | bool | None):
            for choice in self.choices:
                if choice == value and isinstance(choice, bool) == isinstance(value, bool):
                    return choice
        allowed = ", ".join(map(repr, self.choices))
        close = did_you_mean(value, (choice for choice in self.choices if isinstance(choice, str)))
        raise ConfigError("", f"must be one of {allowed:.200}, got {shown(value)}{close}")

    @property
    def size(self) -> int:
        """How many choices there are."""
        return len(self.choices)

    def value(self, index: int) -> Choice:
        """Return the choice at `index`."""
        return self.choices[index]

    def from_unit(self, unit: float) -> Choice:
        """Return the choice that `unit` falls to."""
        return self.choices[_share(unit, len(self.choices))]

    def to_unit(self, value: Choice) -> float:
        """Return the middle of the choice's share."""
        return (self.choices.index(value) + 0.5) / len(self.choices)

    def parse(self, text: str) -> Choice:
        """Return the choice whose text is `text`."""
        for choice in self.choices:
            if str(choice) == text:
                return choice
        return self.validate(text)  # raises with what is allowed


_KINDS: dict[str, type[Parameter]] = {
    kind.type: kind for kind in (FloatParameter, IntParameter, CategoricalParameter)
}


class SearchSpace(Mapping[str, Parameter]):
    """The configurations that a study may try: a mapping of names to parameters, parents before children.

    Otherwise parameters stand in the order in which they were written. A child of an inactive parent is
    inactive.

    Args:
        parameters: name -> parameter as written in ``search.yaml``, with the keys ``type`` ("float", "int" or
            "categorical"), ``low``, ``high``, ``log``, ``step``, ``choices`` and ``when``.

    Raises:
        ConfigError: anything is wrong with `parameters`; its field is such as ``"space.momentum.low"``.

    >>> space = SearchSpace({
    ...     "momentum": {"type": "float", "low": 0.1, "high": 0.9, "when": {"optimizer": "sgd"}},
    ...     "optimizer": {"type": "categorical", "choices": ["adam", "sgd"]},
    ... })
    >>> space.names
    ('optimizer', 'momentum')
    >>> space.active({"optimizer": "adam"})
    ('optimizer',)
    >>> space.validate({"optimizer": "sgd", "momentum": 2})
    Traceback (most recent call last):
        ...
    mlflow_hpo.errors.ConfigError: momentum: must be within [0.1, 0.9], got 2
    """

    def __init__(self, parameters: Mapping[str, Mapping[str, Any]]) -> None:
        try:
            self._parameters = _in_order(_read(parameters))
        except ConfigError as error:
            raise error.under("space") from None
        self.names = tuple(self._parameters)

    def __getitem__(self, name: str) -> Parameter:
        return self._parameters[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._parameters)

    def __len__(self) -> int:
        return len(self._parameters)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SearchSpace):
            return NotImplemented
        return list(self.items()) == list(other.items())

    def __hash__(self) -> int:
        return hash(self.names)

    def __repr__(self) -> str:
        return f"SearchSpace({self.to_dict()})"

    def active(self, config: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the names of the parameters that the values of their ancestors in `config` make active."""
        active: Config = {}
        for name, parameter in self._parameters.items():
            if parameter.is_active(active):
                # a parameter without a value yet is active, but nothing can depend on it
                active[name] = config.get(name, _NO_VALUE)
        return tuple(active)

    def from_unit(self, point: Sequence[float]) -> Config:
        """Return the configuration at a point of the unit cube, which has one coordinate for each of `names`.

        Coordinates of inactive parameters are passed over.
        """
        config: Config = {}
        for (name, parameter), unit in zip(self._parameters.items(), point, strict=True):
            if parameter.is_active(config):
                config[name] = parameter.from_unit(float(unit))
        return config

    def to_unit(self, config: Mapping[str, Any]) -> dict[str, float]:
        """Return name -> place in [0, 1] of each parameter that a valid `config` holds."""
        return {name: self._parameters[name].to_unit(value) for name, value in config.items()}

    def sample(self, rng: np.random.Generator) -> Config:
        """Return a draw from the prior: independent, uniform on the (log) scale of each parameter."""
        return self.from_unit(rng.random(len(self)).tolist())

    def validate(self, config: Mapping[str, Any]) -> Config:
        """Return `config` in the order of the space and as plain Python values.

        Raises:
            ConfigError: an active parameter is missing, an inactive or unknown one is given, or a value is
                wrong; the field is the parameter's name.
        """
        if not isinstance(config, Mapping):
            raise ConfigError("", f"must map parameters to values, got {shown(config)}")
        self._refuse_unknown(config)
        valid: Config = {}
        for name, parameter in self._parameters.items():
            if not parameter.is_active(valid):
                if name in config:
                    raise ConfigError(
                        name, f"must be left out, it is only active when {_condition(parameter)}"
                    )
            elif name not in config:
                raise ConfigError(name, "is missing")
            else:
                try:
                    valid[name] = parameter.validate(config[name])
                except ConfigError as error:
                    raise error.under(name) from None
        return valid

    def contains(self, config: Mapping[str, Any]) -> bool:
        """Whether `validate` takes `config`."""
        try:
            self.validate(config)
        except ConfigError:
            return False
        return True

    def format(self, config: Mapping[str, Any]) -> dict[str, str]:
        """Return a valid `config` as texts, which `parse` reads back exactly."""
        return {name: self._parameters[name].format(value) for name, value in config.items()}

    def parse(self, texts: Mapping[str, str]) -> Config:
        """Return the configuration that `format` wrote.

        Raises:
            ConfigError: as `validate` does.
        """
        self._refuse_unknown(texts)
        config: Config = {}
        for name, text in texts.items():
            try:
                config[name] = self._parameters[name].parse(text)
            except ConfigError as error:
                raise error.under(name) from None
        return self.validate(config)

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Return the space as plain dicts and lists, from which `SearchSpace` makes an equal one."""
        return {name: parameter.to_dict() for name, parameter in self._parameters.items()}

    def _refuse_unknown(self, config: Mapping[str, Any]) -> None:
        for name in config:
            if name not in self._parameters:
                allowed = ", ".join(self.names)
                raise ConfigError(
                    str(name),
                    f"is no parameter of the space ({allowed:.200}){did_you_mean(name, self.names)}",
                )


_NO_VALUE = object()


def _read(parameters: Any) -> dict[str, Parameter]:
    """Read the parameters in the order in which they were written, their conditions still unresolved."""
    if not isinstance(parameters, Mapping):
        raise ConfigError("", f"must map names to parameters, got {shown(parameters)}")
    if not parameters:
        raise ConfigError("", "must name at least one parameter")
    read = {}
    for name, written in parameters.items():
        _check_name(name)
        try:
            read[name] = _read_parameter(written)
        except ConfigError as error:
            raise error.under(name) from None
    return read


def _check_name(name: Any) -> None:
    if not isinstance(name, str) or not name:
        raise ConfigError("", f"names of parameters must be text that is not empty, got {shown(name)}")
    if len(name) > MAX_NAME:
        raise ConfigError(f"{name:.20}...", f"must be at most {MAX_NAME} characters long, got {len(name)}")
    if not _NAME.fullmatch(name):
        raise ConfigError(
            shown(name),
            "must consist of letters, digits, and any of '_', '-', '.', ' ', ':', '/' as MLflow wants",
        )
    if posixpath.normpath(name) != name or name == "." or name.startswith(("..", "/")):
        raise ConfigError(
            shown(name), "must not read as another path: no leading, trailing or double '/', no './'"
        )


def _read_parameter(written: Any) -> Parameter:
    if not isinstance(written, Mapping):
        raise ConfigError(
            "", f"must be a mapping such as {{type: float, low: 0, high: 1}}, got {shown(written)}"
        )
    if "type" not in written:
        raise ConfigError("type", f"is missing; must be one of {', '.join(_KINDS)}")
    kind = _KINDS[one_of("type", written["type"], _KINDS)]
    options = {option.name: option for option in dataclasses.fields(kind)}
    for key in written:
        if key not in options and key != "type":
            allowed = ["type", *options]
            raise ConfigError(
                str(key),
                f"is no key of type {kind.type}; must be one of {', '.join(allowed)}"
                + did_you_mean(key, allowed),
            )
    for name, option in options.items():
        required = option.default is dataclasses.MISSING and option.default_factory is dataclasses.MISSING
        if required and name not in written:
            raise ConfigError(name, f"is missing; type {kind.type} needs it")
    return kind(**{key: value for key, value in written.items() if key != "type"})


def _in_order(read: dict[str, Parameter]) -> dict[str, Parameter]:
    """Put parents before children and check every condition against what the parent can take."""
    ordered: dict[str, Parameter] = {}
    waiting = dict(read)
    for name, parameter in read.items():
        for other in parameter.when:
            path = f"{name}.when.{other}"
            if other == name:
                raise ConfigError(path, "must name another parameter, not itself")
            if other not in read:
                allowed = [known for known in read if known != name]
                raise ConfigError(path, f"is no parameter of the space{did_you_mean(other, allowed)}")
    while waiting:
        ready = next((name for name in waiting if waiting[name].when.keys() <= ordered.keys()), None)
        if ready is None:
            raise _cycle(waiting)
        ordered[ready] = _resolve(ready, waiting.pop(ready), ordered)
    return ordered


def _resolve(name: str, parameter: Parameter, parents: Mapping[str, Parameter]) -> Parameter:
    when = {}
    for other, values in parameter.when.items():
        try:
            when[other] = tuple(dict.fromkeys(parents[other].validate(value) for value in values))
        except ConfigError as error:
            raise error.under(f"{name}.when.{other}") from None
    return dataclasses.replace(parameter, when=when)


def _cycle(waiting: Mapping[str, Parameter]) -> ConfigError:
    way = [next(iter(waiting))]
    while True:
        parent = next(other for other in waiting[way[-1]].when if other in waiting)
        if parent in way:
            way = [*way[way.index(parent) :], parent]
            return ConfigError(
                f"{way[0]}.when.{way[1]}", f"conditions must not form a cycle: {' -> '.join(way)}"
            )
        way.append(parent)


def _condition(parameter: Parameter) -> str:
    return " and ".join(
        f"{other} is {' or '.join(map(repr, values))}" for other, values in parameter.when.items()
    )


def _check_range(low: float, high: float, log: Any, step: Any) -> None:
    if not low < high:
        raise ConfigError("low", f"must be less than high ({high!r}), got {low!r}")
    if not isinstance(log, bool):
        raise ConfigError("log", f"must be true or false, got {shown(log)}")
    if log and low <= 0:
        raise ConfigError("low", f"must be above 0 where log is on, got {low!r}")
    if log and step is not None:
        raise ConfigError("step", f"must be left out where log is on, got {shown(step)}")


def _share(unit: float, size: int) -> int:
    """Return which of `size` equal shares of the unit interval `unit` falls into."""
    return min(int(unit * size), size - 1)


def _number_of(text: str) -> Any:
    try:
        return float(text)
    except ValueError:
        return text
