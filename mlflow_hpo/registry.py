"""Registry: the only place where searchers, schedulers and other exchangeable parts are looked up."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar

from mlflow_hpo.checks import did_you_mean, one_of, shown
from mlflow_hpo.errors import ConfigError

T = TypeVar("T")


class Registry(Generic[T]):
    """The classes of one room by name: the built-in ones, then those of other packages.

    Another package adds a class by an entry point in the group ``mlflow_hpo.<room>``, such as
    ``mlflow_hpo.searchers``; it is loaded when its name is asked for. The options of a class are the
    keyword-only arguments of its constructor, which raises `ConfigError` with the option's bare name for a
    wrong value.

    Args:
        field: the field of the configuration that names a class, such as ``"searcher"``.
        base: what every class derives from.
        group: the entry point group.
        builtin: name -> class.
    """

    def __init__(self, field: str, base: type[T], group: str, builtin: Mapping[str, type[T]]) -> None:
        self._field = field
        self._base = base
        self._group = group
        self._builtin = dict(builtin)

    @property
    def names(self) -> list[str]:
        """All names, the built-in ones first."""
        others = {point.name for point in entry_points(group=self._group)}
        return [*self._builtin, *sorted(others - self._builtin.keys())]

    def get(self, name: str) -> type[T]:
        """Return the class called `name`.

        Raises:
            ConfigError: there is none, or the package that brings it is broken.
        """
        if name in self._builtin:
            return self._builtin[name]
        for point in entry_points(group=self._group, name=name):
            try:
                found = point.load()
            except (ImportError, AttributeError) as error:
                raise ConfigError(
                    self._field, f"{name!r} ({point.value}) cannot be loaded: {error}"
                ) from error
            if not (isinstance(found, type) and issubclass(found, self._base)):
                raise ConfigError(
                    self._field,
                    f"{name!r} ({point.value}) must be a class derived from {self._base.__name__}",
                )
            return found
        one_of(self._field, name, ["auto", *self.names])
        raise AssertionError(name)

    def create(self, spec: Any, *args: Any) -> T:
        """Make what `spec` asks for.

        Args:
            spec: a name, a mapping of ``name`` and options, or an instance, which is returned as it is.
            args: what every constructor of the room takes before its options.

        Raises:
            ConfigError: unknown name, unknown option, or wrong value of an option.
        """
        if isinstance(spec, self._base):
            return spec
        if isinstance(spec, str):
            spec = {"name": spec}
        if not isinstance(spec, Mapping):
            raise ConfigError(
                self._field,
                f"must be a name, a mapping with a name, or a {self._base.__name__}, got {shown(spec)}",
            )
        if "name" not in spec:
            raise ConfigError(
                f"{self._field}.name", f"is missing; must be one of auto, {', '.join(self.names)}"
            )
        name = spec["name"]
        if not isinstance(name, str):
            one_of(f"{self._field}.name", name, ["auto", *self.names])
        made = self.get(name)
        options = {key: value for key, value in spec.items() if key != "name"}
        try:
            check_options(name, made, options)
            return made(*args, **options)
        except ConfigError as error:
            raise error.under(self._field) from None


def check_options(name: str, made: type[Any], options: Mapping[str, Any]) -> None:
    """Raise `ConfigError` for the first of `options` that the constructor of `made` does not take."""
    parameters = inspect.signature(made).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return
    allowed = [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]
    for option in options:
        if option not in allowed:
            those = f"must be one of {', '.join(allowed)}" if allowed else "there are none"
            raise ConfigError(str(option), f"is no option of {name}; {those}{did_you_mean(option, allowed)}")
