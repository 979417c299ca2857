"""Spaces of Optuna and Ray Tune as ours.

Optuna writes a distribution as JSON (`optuna.distributions.distribution_to_json`); of Ray Tune's the calls
are read as text, such as ``tune.loguniform(1e-4, 1e-1)``. Nothing is evaluated.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from mlflow_hpo.importing.imported import Imported, NoCounterpartError
from mlflow_hpo.importing.parameters import choice, grid, number


def from_distributions(settings: Mapping[str, Any]) -> Imported:
    """Return a mapping of names to distributions as the space of a search; all else is to be added."""
    found = Imported({"space": {}})
    for name, written in settings.items():
        found.add(name, partial(_parameter, written))
    found.notes.append("metric: add it: {name: val_loss, mode: min}")
    found.notes.append("max_resource: add the epochs of a full training (1 where the metric is logged once)")
    return found


def _parameter(written: Any) -> dict[str, Any]:
    if isinstance(written, str) and written.lstrip().startswith("{"):
        try:
            written = json.loads(written)
        except json.JSONDecodeError:
            raise NoCounterpartError(f"{written!r:.80} is no JSON") from None
    if isinstance(written, Mapping) and "name" in written and isinstance(written.get("attributes"), Mapping):
        return _of_optuna(str(written["name"]), written["attributes"])
    if isinstance(written, str) and written.rstrip().endswith(")"):
        return _of_ray(written)
    if isinstance(written, str | int | float | bool | None):
        return choice([written])  # a constant
    raise NoCounterpartError(f"{written!r:.80} is no distribution")


def _of_optuna(name: str, attributes: Mapping[str, Any]) -> dict[str, Any]:
    try:
        if name == "CategoricalDistribution":
            return choice(attributes["choices"])
        if name in ("FloatDistribution", "IntDistribution"):
            step = attributes.get("step")
            whole = name == "IntDistribution"
            return number(
                "int" if whole else "float",
                attributes["low"],
                attributes["high"],
                log=bool(attributes.get("log")),
                step=None if whole and step == 1 else step,
            )
    except KeyError as missing:
        raise NoCounterpartError(f"{name} without {missing}") from None
    raise NoCounterpartError(f"Optuna's {name}")


def _of_ray(call: str) -> dict[str, Any]:
    try:
        parsed = ast.parse(call.strip(), mode="eval").body
        if not isinstance(parsed, ast.Call) or parsed.keywords:
            raise ValueError
        function = (
            parsed.func.attr if isinstance(parsed.func, ast.Attribute) else getattr(parsed.func, "id", "")
        )
        arguments = [ast.literal_eval(argument) for argument in parsed.args]
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        raise NoCounterpartError(f"{call!r:.80} is no call with plain values") from None
    if function not in RAY:
        raise NoCounterpartError(f"Ray's {function or call!r:.80}")
    try:
        return RAY[function](*arguments)
    except TypeError:
        raise NoCounterpartError(f"{call!r:.80} has other arguments than Ray takes") from None


def _below(low: int, high: int) -> dict[str, Any]:
    return number("int", low, high - 1)  # Ray leaves the upper end out


def _log_below(low: int, high: int) -> dict[str, Any]:
    return number("int", low, high - 1, log=True)


def _whole_grid(low: int, high: int, step: int) -> dict[str, Any]:
    return grid(low, high, step)  # here Ray leaves it in


RAY: dict[str, Callable[..., dict[str, Any]]] = {
    "uniform": lambda low, high: number("float", low, high),
    "quniform": grid,
    "loguniform": lambda low, high: number("float", low, high, log=True),
    "randint": _below,
    "lograndint": _log_below,
    "qrandint": _whole_grid,
    "choice": choice,
    "grid_search": choice,
}
