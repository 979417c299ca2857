"""What comes of the settings of another tool."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import yaml

from mlflow_hpo.config import StudyConfig
from mlflow_hpo.reports.words import plain

_MANY = 10**6  # epochs: more than any min_resource


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

    def lines(self) -> list[str]:
        """Return all that has no counterpart, one line each."""
        return [*(f"space.{name} is left out: {why}" for name, why in self.left_out.items()), *self.notes]

    def check(self) -> None:
        """Raise ConfigError where what was found is no search, once what is missing is added."""
        StudyConfig.parse({"metric": {"name": "metric", "mode": "min"}, "max_resource": _MANY} | self.keys)

    def to_yaml(self) -> str:
        """Return the text of a search.yaml in ASCII, with what has no counterpart as comments."""
        keys = [_in_one_line({name: value}) for name, value in self.keys.items() if name != "space"]
        space = [f"  {_in_one_line({name: parameter})}" for name, parameter in self.keys["space"].items()]
        lines = [*(f"# {plain(line)}" for line in self.lines()), *keys, "space:", *space]
        return "".join(f"{line}\n" for line in lines)


def _in_one_line(entry: dict[str, Any]) -> str:
    text = yaml.safe_dump(entry, default_flow_style=True, sort_keys=False, width=math.inf)
    return text.strip()[1:-1]
