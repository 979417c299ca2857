"""Checks of a search space against the parameters that an entry point declares."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from string import Formatter
from typing import Any

from mlflow.projects._project_spec import EntryPoint
from mlflow.utils.data_utils import is_uri
from mlflow.utils.file_utils import get_local_path_or_none

from mlflow_hpo.checks import did_you_mean, shown
from mlflow_hpo.errors import ConfigError
from mlflow_hpo.space import CategoricalParameter, Parameter, SearchSpace


def check_parameters(
    space: SearchSpace, entry_point: EntryPoint, fixed: Mapping[str, str], own: Mapping[str, str]
) -> None:
    """Check that every configuration of a space is one that an entry point takes.

    An entry point that declares no parameters takes any, as ``--name value``, as with `mlflow run`.

    Args:
        space: the search space.
        entry_point: what is run.
        fixed: the parameters that are given by ``-P``.
        own: parameters that the search sets itself: field of the configuration -> name.

    Raises:
        ConfigError: a name is unknown or given twice, one that is required is missing, or a value is not of
            the declared type.
    """
    declared = entry_point.parameters
    _check_command(entry_point)
    for field, name in own.items():
        _check_declared(field, name, entry_point)
        for where, names in (("space", space), ("-P", fixed)):
            if name in names:
                raise ConfigError(field, f"{name!r} must not be in {where} too: the search sets it")
        if declared and declared[name].type in ("path", "uri"):
            raise ConfigError(field, f"{name!r} must not be of type {declared[name].type} in MLproject")
    for name, parameter in space.items():
        field = f"space.{name}"
        _check_declared(field, name, entry_point)
        if name in fixed:
            raise ConfigError(field, f"is fixed by -P {name}={fixed[name]} too; give it once")
        if name in declared:
            _check_type(field, parameter, declared[name].type)
            if parameter.when and declared[name].default is None:
                raise ConfigError(
                    field, "is not always active (when), and MLproject gives it no default for then"
                )
    given = {*space, *fixed, *own.values()}
    missing = [name for name, each in declared.items() if name not in given and each.default is None]
    if missing:
        raise ConfigError(
            "space",
            f"lacks {', '.join(missing)}, which the entry point {entry_point.name!r} requires; put it there, "
            f"or fix it with -P {missing[0]}=VALUE",
        )


def _check_command(entry_point: EntryPoint) -> None:
    try:
        used = {name for _, name, _, _ in Formatter().parse(entry_point.command) if name is not None}
    except ValueError as error:
        raise ConfigError(
            "entry point", f"the command of {entry_point.name!r} is malformed: {error}"
        ) from None
    if unknown := sorted(used - entry_point.parameters.keys()):
        raise ConfigError(
            "entry point",
            f"the command of {entry_point.name!r} uses {{{unknown[0]}}}, which MLproject does not declare",
        )


def _check_declared(field: str, name: str, entry_point: EntryPoint) -> None:
    declared = entry_point.parameters
    if declared and name not in declared:
        raise ConfigError(
            field,
            f"{name!r} is no parameter of the entry point {entry_point.name!r} "
            f"(allowed: {', '.join(declared)}){did_you_mean(name, declared)}",
        )


def _check_type(field: str, parameter: Parameter, kind: str) -> None:
    choices = parameter.choices if isinstance(parameter, CategoricalParameter) else None
    if kind == "float":
        bad = _first(choices or (), lambda choice: not _is_number(choice))
        if bad is not None:
            raise ConfigError(
                f"{field}.choices", f"must be numbers, as MLproject declares a float; got {shown(bad[0])}"
            )
    elif kind in ("path", "uri"):
        if choices is None:
            raise ConfigError(
                f"{field}.type", f"must be categorical, as MLproject declares a {kind}; got {parameter.type}"
            )
        bad = _first(choices, lambda choice: not _is_place(choice, kind))
        if bad is not None:
            what = "an existing path or a URI" if kind == "path" else "a URI"
            raise ConfigError(
                f"{field}.choices",
                f"must each be {what}, as MLproject declares a {kind}; got {shown(bad[0])}",
            )


def _first(choices: Iterable[Any], wanted: Any) -> tuple[Any] | None:
    return next(((choice,) for choice in choices if wanted(choice)), None)


def _is_number(choice: Any) -> bool:
    if isinstance(choice, bool) or choice is None:
        return False
    try:
        float(choice)
    except ValueError:
        return False
    return True


def _is_place(choice: Any, kind: str) -> bool:
    if not isinstance(choice, str):
        return False
    if kind == "uri":
        return bool(is_uri(choice))
    local = get_local_path_or_none(choice)
    return local is None or os.path.exists(local)
