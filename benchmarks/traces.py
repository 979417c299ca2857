"""Traces on disk, by method, version, workers, task and seed: nothing is measured twice."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

from lcbench import LcBench, Problem, Task
from methods import method
from packaging.version import Version
from reference import Reference, find_reference
from simulator import Trace, simulate

CACHE = Path(__file__).parent / ".cache"  # ours, and references: git ignores them
PEERS = Path(__file__).parent / "traces"  # takes hours to make anew: in git

_Key = tuple[str, int, int]  # task id, seed, epochs


class TraceFiles:
    """Files of traces, each read once."""

    def __init__(self) -> None:
        self._read: dict[Path, dict[_Key, Trace]] = {}

    def get(self, path: Path, key: _Key, measure: Callable[[], Trace]) -> Trace:
        """Return the trace of a key; if the file has none, measure it and append it."""
        if path not in self._read:
            lines = path.read_text().splitlines() if path.exists() else []
            self._read[path] = dict(map(_parsed, lines))
        known = self._read[path]
        if key not in known:
            known[key] = _rounded(measure())
            _append(path, key, known[key])
        return known[key]


class Traces:
    """Answers from a file or simulates, and appends to the file.

    A peer that is not installed here may have been measured in another environment: then the newest version
    on disk answers.
    """

    def __init__(self, bench: LcBench, ours: Path = CACHE, peers: Path = PEERS) -> None:
        self._bench = bench
        self._ours = ours
        self._peers = peers
        self._problems: dict[Task, Problem] = {}
        self._files = TraceFiles()

    def version(self, name: str, workers: int) -> str | None:
        """Return the version of a method that answers, None if there is none."""
        if (installed := method(name).version) is not None:
            return installed
        measured = [path.stem for path in self._folder(name, workers).glob("*.jsonl")]
        return max(measured, key=Version, default=None)

    def trace(self, name: str, task: Task, seed: int, workers: int, epochs: int) -> Trace:
        """Return what a method does on a task.

        Raises:
            ImportError: it is not on disk and the peer is not installed.
        """
        path = self._folder(name, workers) / f"{self.version(name, workers) or 'missing'}.jsonl"

        def measure() -> Trace:
            if method(name).version is None:
                raise ImportError(f"{name} is not installed in a version that has it")
            problem = self.problem(task)
            search = method(name).make(problem.space, seed, problem.max_epochs)
            return simulate(search, problem, workers=workers, epochs=epochs)

        return self._files.get(path, (task.task_id, seed, epochs), measure)

    def reference(self, task: Task) -> Reference:
        """Return what the task's regret is measured against."""
        path = self._ours / "reference" / f"{task.task_id}.json"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(dataclasses.asdict(find_reference(self.problem(task)))))
        return Reference(**json.loads(path.read_text()))

    def problem(self, task: Task) -> Problem:
        """Return the training on a task; that of the last one is remembered."""
        if task not in self._problems:
            self._problems = {task: self._bench.problem(task)}
        return self._problems[task]

    def _folder(self, name: str, workers: int) -> Path:
        return (self._ours if method(name).ours else self._peers) / f"workers-{workers}" / name


def _rounded(trace: Trace) -> Trace:
    """Return the trace as it is written: less than the figures show is left out."""
    steps = [(epochs, round(seconds), round(value, 5)) for epochs, seconds, value in trace.steps]
    return dataclasses.replace(trace, steps=steps, seconds=round(trace.seconds))


def _append(path: Path, key: _Key, trace: Trace) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps([*key, dataclasses.asdict(trace)], separators=(",", ":")) + "\n")


def _parsed(line: str) -> tuple[_Key, Trace]:
    task, seed, epochs, trace = json.loads(line)
    return (task, seed, epochs), Trace(**trace | {"steps": [tuple(step) for step in trace["steps"]]})
