"""Parameters of our space, made of the numbers that other tools have."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from mlflow_hpo.checks import is_finite, shown
from mlflow_hpo.errors import ConfigError
from mlflow_hpo.importing.imported import NoCounterpartError
from mlflow_hpo.space import SearchSpace


def checked(parameter: dict[str, Any]) -> dict[str, Any]:
    """Return a parameter that our space takes. Raises NoCounterpartError for another."""
    try:
        SearchSpace({"it": parameter})
    except ConfigError as error:
        raise NoCounterpartError(str(error).removeprefix("space.").removeprefix("it.")) from None
    return parameter


def choice(values: Any) -> dict[str, Any]:
    """Return one of several values."""
    listed = list(values) if isinstance(values, Sequence) and not isinstance(values, str) else values
    return checked({"type": "categorical", "choices": listed})


def number(kind: str, low: Any, high: Any, *, log: bool = False, step: Any = None) -> dict[str, Any]:
    """Return a number within bounds, both included; of a single one a choice."""
    _check_numbers(low, high)
    if low == high:
        return choice([low])
    whole = kind == "int" and all(float(end).is_integer() for end in (low, high))
    ends = {"low": int(low), "high": int(high)} if whole else {"low": low, "high": high}
    steps = {} if step is None else {"step": step}
    return checked({"type": kind, **ends, **({"log": True} if log else {}), **steps})


def grid(low: Any, high: Any, step: Any) -> dict[str, Any]:
    """Return multiples of `step`; whole ones where all are. Both ends must be among them."""
    _check_numbers(low, high, step)
    exact = Fraction(repr(step))
    if exact <= 0 or any((Fraction(repr(end)) / exact).denominator != 1 for end in (low, high)):
        raise NoCounterpartError(f"steps of {step} that do not meet {low} and {high}")
    if all(float(each).is_integer() for each in (low, high, step)):
        return number("int", low, high, step=None if step == 1 else int(step))
    return number("float", low, high, step=step)


def _check_numbers(*values: Any) -> None:
    for value in values:
        if not is_finite(value):
            raise NoCounterpartError(f"{shown(value)} is no finite number")
