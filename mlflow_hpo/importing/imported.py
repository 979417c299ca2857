"""What comes of the settings of another tool."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from mlflow_hpo.config import StudyConfig
from mlflow_hpo.errors import ConfigError
from mlflow_hpo.reports.words import plain
from mlflow_hpo.space import SearchSpace
from mlflow_hpo.yaml_text import in_one_line

_MANY = 10**6  # epochs: more than any min_resource
_ANY = {"x": {"type": "float", "low": 0.0, "high": 1.0}}  # in place of a space of which all was left out
_SIMPLE = 100  # characters; a longer name is quoted, as YAML has another form for long keys


class NoCounterpartError(ValueError):
    """A setting has no counterpart here; the message says why."""


@dataclass(slots=True)
class Imported:
    """Keys of a search.yaml, and all that they do not say.

    Attributes:
        keys: what has an exact counterpart.
        left_out: parameter -> why it is not in the space.
        notes: what else is to be known or done, one line each.
    """

    keys: dict[str, Any] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, name: object, parameter: Callable[[], dict[str, Any]]) -> None:
        """Add a parameter to the space, or say why it is left out."""
        space, name = self.keys.setdefault("space", {}), str(name)
        try:
            found = parameter()
            SearchSpace({name: found})
        except (NoCounterpartError, ConfigError) as why:
            self.left_out[name] = str(why)
        else:
            space[name] = found

    def lines(self) -> list[str]:
        """Return all that has no counterpart, one line each."""
        return [*(f"space.{name} is left out: {why}" for name, why in self.left_out.items()), *self.notes]

    def check(self) -> None:
        """Raise ConfigError where what was found is no search, once what is missing is added."""
        needed = {"metric": {"name": "metric", "mode": "min"}, "max_resource": _MANY}
        StudyConfig.parse({**needed, **self.keys, "space": self.keys.get("space") or _ANY})

    def to_yaml(self) -> str:
        """Return the text of a search.yaml in ASCII, with what has no counterpart as comments."""
        keys = [in_one_line({name: value}) for name, value in self.keys.items() if name != "space"]
        space = [f"  {_entry(name, parameter)}" for name, parameter in self.keys["space"].items()]
        head = "space:" if space else "space: {}"
        lines = [*(f"# {plain(line)}" for line in self.lines()), *keys, head, *space]
        return "".join(f"{line}\n" for line in lines)


def _entry(name: str, parameter: dict[str, Any]) -> str:
    if len(name) <= _SIMPLE:
        return in_one_line({name: parameter})
    return f"{json.dumps(name)}: {{{in_one_line(parameter)}}}"
