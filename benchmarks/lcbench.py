"""LCBench's surrogate: learning curves of neural networks on 34 OpenML tasks, answered in milliseconds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mlflow_hpo import SearchSpace

MAX_EPOCHS = 50
_FIRST = 2  # the surrogate's epoch 1 is an untrained network: epoch e of a study is its epoch e + 1
_INPUTS = (  # in the model's order; the epoch comes before them
    "batch_size",
    "learning_rate",
    "momentum",
    "weight_decay",
    "num_layers",
    "max_units",
    "max_dropout",
)
_SECONDS, _VAL_ACCURACY = 0, 1  # columns of the model's output


@dataclass(frozen=True)
class Curve:
    """What a full training would report: `values` (better is higher) and `seconds` of each epoch alone."""

    values: np.ndarray
    seconds: np.ndarray


class Problem(Protocol):
    """What the simulator trains on."""

    space: SearchSpace
    max_epochs: int

    def curve(self, config: Mapping[str, Any]) -> Curve:
        """Return the learning curve of a configuration, always the same one."""


@dataclass(frozen=True)
class Task:
    """One of LCBench's tasks; `facts` are of its data, as studies record them."""

    task_id: str
    name: str
    facts: Mapping[str, str] = field(default_factory=dict, compare=False)


class LcBench:
    """The surrogate in a folder with `model.onnx`, `encoding.json`, `config_space.json` and `tasks.json`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.space = read_space(json.loads((path / "config_space.json").read_text()))
        self._codes = json.loads((path / "encoding.json").read_text())["OpenML_task_id"]

    def tasks(self, split: str) -> list[Task]:
        """Return the tasks of a split ("dev" or "holdout"), always in the same order."""
        rows = json.loads((self.path / "tasks.json").read_text())
        return [Task(row["task_id"], row["name"], _facts(row)) for row in rows if row["split"] == split]

    def problem(self, task: Task) -> LcProblem:
        """Return the training on one task."""
        return LcProblem(self, task)

    def predict(self, task: Task, configs: np.ndarray, epochs: np.ndarray) -> np.ndarray:
        """Return seconds (cumulative) and validation accuracy, [n, 2].

        Args:
            configs: [n, 7], raw values in the model's order.
            epochs: [n], a study's epochs.
        """
        numbers = np.column_stack([epochs + _FIRST - 1, configs]).astype(np.float32)
        codes = np.full((len(numbers), 1), self._codes[task.task_id], dtype=np.int32)
        (output,) = self._session.run(None, {"x_cat": codes, "x_cont": numbers})
        return output[:, [_SECONDS, _VAL_ACCURACY]].astype(float)

    @cached_property
    def _session(self) -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        return onnxruntime.InferenceSession(str(self.path / "model.onnx"), options)


class LcProblem:
    """Training on one task; every configuration's curve is asked for once."""

    max_epochs = MAX_EPOCHS

    def __init__(self, bench: LcBench, task: Task) -> None:
        self.task = task
        self.space = bench.space
        self._bench = bench
        self._curves: dict[tuple[Any, ...], Curve] = {}

    def curve(self, config: Mapping[str, Any]) -> Curve:
        """Return the curve in one batched call of the model, or from memory."""
        key = tuple(config[name] for name in _INPUTS)
        if key not in self._curves:
            epochs = np.arange(1, MAX_EPOCHS + 1)
            output = self._bench.predict(self.task, np.tile(np.array(key, float), (MAX_EPOCHS, 1)), epochs)
            # a regression need not be monotone: no epoch takes less than no time
            seconds = np.maximum(np.diff(output[:, 0], prepend=0.0), 1e-3)
            self._curves[key] = Curve(output[:, 1], seconds)
        return self._curves[key]


def _facts(row: Mapping[str, Any]) -> dict[str, str]:
    return {
        "data": row["name"],
        "data.rows": str(row["rows"]),
        "data.columns": str(row["features"]),
        "data.classes": str(row["classes"]),
        "data.task": "classification",
    }


def read_space(written: Mapping[str, Any]) -> SearchSpace:
    """Return the search space of a `config_space.json`, without the task and the epoch."""
    kinds = {"uniform_int": "int", "uniform_float": "float"}
    by_name = {each["name"]: each for each in written["hyperparameters"]}
    return SearchSpace(
        {
            name: {
                "type": kinds[by_name[name]["type"]],
                "low": _rounded(by_name[name]["lower"]),
                "high": _rounded(by_name[name]["upper"]),
                "log": by_name[name]["log"],
            }
            for name in _INPUTS
        }
    )


def _rounded(bound: float) -> float:
    return float(f"{bound:.12g}")  # they were written as exp(log(bound))
