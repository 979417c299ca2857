"""Sweeps of Weights & Biases (https://docs.wandb.ai/guides/sweeps/sweep-config-keys) as searches."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from mlflow_hpo.checks import finite_number, one_of, shown, whole_number
from mlflow_hpo.errors import ConfigError
from mlflow_hpo.importing.imported import Imported, NoCounterpartError
from mlflow_hpo.importing.parameters import choice, grid, number

METHODS = {"random": "random", "grid": "grid", "bayes": "gp"}
MODES = {"minimize": "min", "maximize": "max"}
OURS = {"name": "name", "project": "experiment", "run_cap": "trials"}  # theirs -> ours
ABOUT_RUNNING = {
    "program": "name it as the entry point of an MLflow project (docs/projects.md), or make it a function",
    "command": "write it into MLproject (docs/projects.md)",
}
NOTHING_LOST = {"description", "entity", "controller", "$schema"}


def is_sweep(settings: Mapping[str, Any]) -> bool:
    """Whether these are the settings of a sweep."""
    return isinstance(settings.get("parameters"), Mapping)


def from_sweep(sweep: Mapping[str, Any]) -> Imported:
    """Return a sweep as a search.

    Raises:
        ConfigError: it is not one that W&B takes.
    """
    found = Imported()
    _metric(sweep, found)
    found.keys["searcher"] = METHODS[one_of("method", sweep.get("method"), METHODS)]
    if found.keys["searcher"] == "gp":
        found.notes.append("searcher: gp needs the extra: pip install 'mlflow-hpo[gp]'")
    _early_terminate(sweep.get("early_terminate"), found)
    for theirs, ours in OURS.items():
        if theirs in sweep:
            found.keys[ours] = sweep[theirs]
    if "run_cap" not in sweep:
        found.notes.append("trials: a sweep without run_cap has no end; the default here is 100")
    known = {"metric", "method", "parameters", "early_terminate", *OURS, *NOTHING_LOST}
    found.notes += [
        f"{name}: {ABOUT_RUNNING.get(name, 'has no counterpart')}" for name in sweep if name not in known
    ]
    found.keys["space"] = {}
    for name, parameter in sweep["parameters"].items():
        found.add(name, partial(_parameter, parameter))
    return found


def _metric(sweep: Mapping[str, Any], found: Imported) -> None:
    metric = sweep.get("metric")
    if not isinstance(metric, Mapping) or "name" not in metric:
        found.notes.append("metric: the sweep names none; it is required here: {name: val_loss, mode: min}")
        return
    mode = MODES[one_of("metric.goal", metric.get("goal", "minimize"), MODES)]
    found.keys["metric"] = {"name": str(metric["name"]), "mode": mode}
    if "target" in metric:
        found.keys["goal"] = metric["target"]


def _early_terminate(rule: Any, found: Imported) -> None:
    """W&B's hyperband stops a run at a bracket unless it is among the best there, and pauses none."""
    if rule is None:
        found.keys["scheduler"] = "full"
        found.notes.append(
            "max_resource: add the epochs of a full training (1 where the metric is logged once)"
        )
        return
    if not isinstance(rule, Mapping):
        raise ConfigError("early_terminate", f"must be a mapping with a type, got {shown(rule)}")
    one_of("early_terminate.type", rule.get("type"), ["hyperband"])
    eta = rule.get("eta", 3)
    found.keys["scheduler"] = {"name": "asha_stopping", "eta": eta}
    if "min_iter" in rule:
        found.keys["min_resource"] = rule["min_iter"]
        found.notes.append("max_resource: add the epochs of a full training; W&B does not ask for them")
    elif "max_iter" in rule:
        found.keys["max_resource"] = rule["max_iter"]
        most = whole_number("early_terminate.max_iter", rule["max_iter"], at_least=1)
        brackets = whole_number("early_terminate.s", rule.get("s", 0), at_least=0)
        if brackets:
            found.keys["min_resource"] = _shrunk(most, finite_number("early_terminate.eta", eta), brackets)
    if rule.get("strict"):
        found.notes.append("early_terminate.strict: has no counterpart")


def _shrunk(most: int, eta: float, brackets: int) -> int:
    """Return ``most / eta**brackets``, at least 1."""
    try:
        return max(1, int(most // eta**brackets))
    except (OverflowError, ZeroDivisionError):
        return 1


def _parameter(parameter: Any) -> dict[str, Any]:
    if not isinstance(parameter, Mapping):
        raise NoCounterpartError(f"{parameter!r:.80} is no parameter of a sweep")
    if "parameters" in parameter:
        raise NoCounterpartError("nested parameters; give each a name of its own")
    if "value" in parameter:
        return choice([parameter["value"]])
    if "values" in parameter:
        if "probabilities" in parameter:
            raise NoCounterpartError("choices with probabilities; here they are equally likely")
        return choice(parameter["values"])
    distribution = str(parameter.get("distribution", _implied(parameter)))
    if distribution not in DISTRIBUTIONS:
        raise NoCounterpartError(f"the distribution {distribution}")
    if "min" not in parameter or "max" not in parameter:
        raise NoCounterpartError(f"{distribution} without min and max")
    low, high, q = parameter["min"], parameter["max"], parameter.get("q", 1)
    return DISTRIBUTIONS[distribution](low, high, q)


def _implied(parameter: Mapping[str, Any]) -> str:
    """Return the distribution that W&B takes where none is named."""
    whole = all(isinstance(parameter.get(end), int) for end in ("min", "max"))
    return "int_uniform" if whole else "uniform"


def _of_exponents(low: float, high: float, q: float) -> dict[str, Any]:
    del q
    try:
        return number("float", math.exp(low), math.exp(high), log=True)
    except (TypeError, OverflowError):
        raise NoCounterpartError(f"{shown(low)} and {shown(high)} are no exponents") from None


def _rounded(low: float, high: float, q: float) -> dict[str, Any]:
    if q != 1:
        raise NoCounterpartError(f"steps of {q} on a logarithmic scale")
    return number("int", low, high, log=True)


DISTRIBUTIONS: dict[str, Callable[[Any, Any, Any], dict[str, Any]]] = {
    "uniform": lambda low, high, q: number("float", low, high),
    "int_uniform": lambda low, high, q: number("int", low, high),
    "q_uniform": grid,
    "log_uniform": _of_exponents,
    "log_uniform_values": lambda low, high, q: number("float", low, high, log=True),
    "q_log_uniform_values": _rounded,
}
