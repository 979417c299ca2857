"""Checks of single values that users give; each raises `ConfigError` with the value and what is allowed."""

from __future__ import annotations

import difflib
import math
import numbers
import re
from collections.abc import Iterable
from typing import Any

from mlflow_hpo.errors import ConfigError

_REAL = (int, float, numbers.Real)  # an abstract class alone takes three times as long to answer


def shown(value: Any) -> str:
    """Return `value` as an error message shows it: its repr, cut at 80 characters."""
    return f"{value!r:.80}"


def did_you_mean(value: Any, allowed: Iterable[str]) -> str:
    """Return the end of a message that suggests the closest of the `allowed` names, or nothing.

    >>> did_you_mean("momentun", ["momentum", "optimizer"])
    "; did you mean 'momentum'?"
    """
    close = difflib.get_close_matches(value, list(allowed), n=1) if isinstance(value, str) else []
    return f"; did you mean {close[0]!r}?" if close else ""


def one_of(field: str, value: Any, allowed: Iterable[str]) -> str:
    """Return `value` if it is one of the `allowed` names, else raise `ConfigError`."""
    allowed = list(allowed)
    if isinstance(value, str) and value in allowed:
        return value
    raise ConfigError(
        field, f"must be one of {', '.join(allowed)}, got {shown(value)}{did_you_mean(value, allowed)}"
    )


def is_finite(value: Any) -> bool:
    """Whether `value` is a number (a boolean is none), and neither NaN nor infinite."""
    if not isinstance(value, _REAL) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an int that no float holds
        return False


def whole_number(field: str, value: Any, *, at_least: int | None = None) -> int:
    """Return `value` as an int, else raise `ConfigError`; 3.0 is whole, True is not a number."""
    least = "" if at_least is None else f" of {at_least} or more"
    if is_finite(value):
        whole = int(value)
        if whole == value and (at_least is None or whole >= at_least):
            return whole
    raise ConfigError(field, f"must be a whole number{least}, got {shown(value)}")


def finite_number(
    field: str,
    value: Any,
    *,
    above: float | None = None,
    at_least: float | None = None,
    at_most: float | None = None,
) -> float:
    """Return `value` as a float, else raise `ConfigError`; NaN, infinities and booleans are refused."""
    if is_finite(value):
        number = float(value)
        if (
            (above is None or number > above)
            and (at_least is None or number >= at_least)
            and (at_most is None or number <= at_most)
        ):
            return number
    bounds = [f"above {above:g}"] if above is not None else []
    bounds += [f"of {at_least:g} or more"] if at_least is not None else []
    bounds += [f"at most {at_most:g}"] if at_most is not None else []
    limits = f" {' and '.join(bounds)}" if bounds else ""
    raise ConfigError(field, f"must be a finite number{limits}, got {shown(value)}{_yaml_hint(value)}")


def _yaml_hint(value: Any) -> str:
    """Explain why 1e-4 in a YAML file is no number."""
    is_number = isinstance(value, str) and re.fullmatch(r"[-+]?\d+[eE][-+]?\d+", value.strip())
    return " (text; in YAML a number with an exponent needs a point: 1.0e-4)" if is_number else ""
