"""Rules: how runs of earlier tasks are read that name things in their own way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mlflow_hpo.checks import one_of, shown
from mlflow_hpo.errors import ConfigError
from mlflow_hpo.space import SearchSpace

if TYPE_CHECKING:
    from mlflow.entities import Run

DATASET = "dataset"
EXPERIMENT = "experiment"
_TAG, _PARAM = "tag:", "param:"


@dataclass(frozen=True, slots=True)
class Rules:
    """What the parameters of earlier runs are called here, and what tells the task of a plain run.

    Attributes:
        rename: parameter of the space -> by the name that earlier runs have for it.
        task: ``"dataset"``, what MLflow has as the run's datasets; ``"experiment"``; ``"tag:NAME"`` or
            ``"param:NAME"``, the value of a tag or a param. Runs that lack it are a task of their experiment.

    >>> Rules({"lr": "learning_rate"}).renamed({"lr": "0.1", "layers": "2"})
    {'learning_rate': '0.1', 'layers': '2'}
    """

    rename: Mapping[str, str] = field(default_factory=dict)
    task: str = DATASET

    def check(self, space: SearchSpace) -> None:
        """Raise ConfigError, its field beginning with ``rename`` or ``task``, where a rule makes no sense."""
        for old, new in self.rename.items():
            one_of(f"rename.{old}", new, space)
            if old in space:
                raise ConfigError(f"rename.{old}", "is a parameter of the space itself")
        if self.task not in (DATASET, EXPERIMENT) and not self._named:
            allowed = f"{DATASET}, {EXPERIMENT}, {_TAG}NAME or {_PARAM}NAME"
            raise ConfigError("task", f"must be {allowed}, got {shown(self.task)}")

    @property
    def _named(self) -> str:
        """The name of the tag or param that tells the task."""
        return next((self.task[len(kind) :] for kind in (_TAG, _PARAM) if self.task.startswith(kind)), "")

    def renamed(self, texts: Mapping[str, str]) -> dict[str, str]:
        """Return params by the names that they have here; one that is there by its own name stays."""
        found: dict[str, str] = {}
        for old, text in texts.items():
            new = self.rename.get(old, old)
            found[old if new in texts or new in found else new] = text
        return found

    def names(self, name: str) -> list[str]:
        """Return all names that runs may have for a parameter of the space."""
        return [name, *(old for old, new in self.rename.items() if new == name)]

    def told(self, run: Run) -> str | None:
        """Return what a tag or param tells of the task, "" where the rule is another or nothing is told.

        None stands for: the datasets tell it.
        """
        if self.task == DATASET:
            return None
        texts = run.data.tags if self.task.startswith(_TAG) else run.data.params
        value = texts.get(self._named, "")
        return f"{self._named}={value}" if value else ""
