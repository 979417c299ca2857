"""Traces on disk, by method, version, workers, task and seed: nothing is measured twice."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from lcbench import LcBench, Problem, Task
from methods import method
from reference import Reference, find_reference
from simulator import Trace, simulate

CACHE = Path(__file__).parent / ".cache"  # git ignores it


class Traces:
    """Answers from the cache or simulates.

    A peer that is not installed here may have been measured in another environment: then the newest version
    in the cache answers.
    """

    def __init__(self, bench: LcBench, cache: Path) -> None:
        self._bench = bench
        self._cache = cache
        self._problems: dict[Task, Problem] = {}

    def version(self, name: str, workers: int) -> str | None:
        """Return the version of a method that answers, None if there is none."""
        measured = sorted(path.name for path in self._folder(name, workers).glob("*"))
        return method(name).version or (measured[-1] if measured else None)

    def trace(self, name: str, task: Task, seed: int, workers: int, epochs: int) -> Trace:
        """Return what a method does on a task.

        Raises:
            ImportError: it is not in the cache and the peer is not installed.
        """
        version = self.version(name, workers) or "missing"
        path = self._folder(name, workers) / version / f"{task.task_id}-{seed}-{epochs}.json"
        if path.exists():
            return Trace(**json.loads(path.read_text()))
        problem = self._problem(task)
        search = method(name).make(problem.space, seed, problem.max_epochs)
        trace = simulate(search, problem, workers=workers, epochs=epochs)
        _write(path, dataclasses.asdict(trace))
        return trace

    def reference(self, task: Task) -> Reference:
        """Return what the task's regret is measured against."""
        path = self._cache / "reference" / f"{task.task_id}.json"
        if not path.exists():
            _write(path, dataclasses.asdict(find_reference(self._problem(task))))
        return Reference(**json.loads(path.read_text()))

    def _problem(self, task: Task) -> Problem:
        if task not in self._problems:
            self._problems = {task: self._bench.problem(task)}  # one task's curves at a time are enough
        return self._problems[task]

    def _folder(self, name: str, workers: int) -> Path:
        return self._cache / f"workers-{workers}" / name


def _write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
