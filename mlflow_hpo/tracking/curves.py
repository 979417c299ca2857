"""Learning curves as MLflow holds them: of many trials in one artifact, or asked for run by run."""

from __future__ import annotations

import contextlib
import json
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import mlflow
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from mlflow_hpo.constraints import parse_constraints
from mlflow_hpo.steps import Point, as_told
from mlflow_hpo.tracking.connect import ask
from mlflow_hpo.tracking.history import HISTORY, NOTES, SCHEMA
from mlflow_hpo.tracking.logged import logged_value

Curve: TypeAlias = "tuple[array[int], array[float]]"  # epochs, values
NO_CURVE: Curve = (array("q"), array("d"))


def written_curves(run_id: str) -> dict[str, tuple[Curve, bool]]:
    """Return the curves that a study has written down, by run, and whether each is all that was reported.

    What is not finite, or not feasible, is left out of them. Where nothing can be read there are none.

    Args:
        run_id: the parent run.
    """
    known: dict[str, tuple[Curve, bool]] = {}
    for path in (HISTORY, NOTES):
        with contextlib.suppress(Exception):  # it only saves time
            text = mlflow.artifacts.load_text(f"runs:/{run_id}/{path}")
            found = json.loads(text, object_hook=_compact)  # as lists there may be millions of points
            if found["schema"] == SCHEMA:
                for trial in found["trials"]:
                    run, curve = trial["run_id"], trial["curve"]
                    if run not in known or len(curve[0]) > len(known[run][0][0]):
                        known[run] = curve, len(curve[0]) == trial.get("reports")
    return known


def _compact(plain: dict[str, Any]) -> dict[str, Any]:
    if isinstance(points := plain.get("curve"), list):  # not of a parameter of that name
        plain["curve"] = (
            array("q", (each[0] for each in points)),
            array("d", (each[1] for each in points)),
        )
    return plain


@dataclass(frozen=True, slots=True)
class Reading:
    """How the metrics of a study's trials are read, run by run.

    Attributes:
        client: of the store.
        names: of the metrics that the search looks at, the optimised one first.
        space: names of the parameters that are searched; scripts log others beside them.
        scripts: whether the trials are scripts that have logged by themselves, with steps of their own.
        counted: whether those are no epochs, and their values are counted.
    """

    client: MlflowClient
    names: list[str]
    space: frozenset[str]
    scripts: bool
    counted: bool

    @classmethod
    def of(cls, client: MlflowClient, keys: Mapping[str, Any]) -> Reading:
        """Return how those of the study with these keys of search.yaml are read."""
        constraints = parse_constraints(keys.get("constraints", []))
        return cls(
            client,
            list(dict.fromkeys([keys["metric"]["name"], *(each.metric for each in constraints)])),
            frozenset(keys["space"]),
            keys.get("launcher") == "project",
            keys.get("project", {}).get("steps") == "count",
        )

    def history(self, run: Run, name: str) -> list[Point]:
        """Return what is logged of a metric; of one that the search looks at, by epoch."""
        return self.told(run.info.run_id, name, int(run.data.tags.get("hpo.epochs", "0")))

    def told(self, run_id: str, name: str, reached: int) -> list[Point]:
        """Return the same of a run whose trial has come to the epoch `reached`, 0 if that is not known."""
        problem = "MLFLOW_TRACKING_URI: cannot read the metrics of a trial"
        found = ask(problem, self.client.get_metric_history, run_id, name)
        points = [Point(each.step, each.timestamp / 1000, logged_value(each.value)) for each in found]
        if not self.scripts or name not in self.names:
            return points
        told = as_told(points, reached, counted=self.counted)
        return [Point(epoch, point.time, point.value) for epoch, point in told.items()]
