"""How much sooner a search gets there that knows of other tasks: ours against the peers, on LCBench."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click
import numpy as np
from lcbench import MAX_EPOCHS, LcBench, Task
from methods.transfer import OURS, TRANSFER, TransferEntry
from options import path_option, split_option, write_option
from packaging.version import Version
from past import TRIALS, mined, name_in_history, past_trials
from quality import assess
from report import markdown_table, publish, quality_row
from simulator import Trace, simulate
from traces import CACHE, PEERS, TraceFiles, Traces

from mlflow_hpo import History
from mlflow_hpo.metalearning.features import task_features
from mlflow_hpo.metalearning.history import counted

_COLD = ["random", "auto+auto"]  # the measure of the speed-up, and what a warm start is to be better than


class Past:
    """The history that a search on a task is told of, by seed."""

    def __init__(self, bench: LcBench, tasks: Sequence[Task], others: int | None, *, inverted: bool) -> None:
        self._bench = bench
        self._tasks = tasks
        self._others = others
        self._inverted = inverted
        self._known: dict[tuple[int, bool], History] = {}  # the last one, by seed and whose it is

    def of(self, entry: TransferEntry, task: Task, seed: int) -> History:
        """Return what is told of other tasks: ours have it from MLflow, the peers by hand."""
        key = seed, entry.ours
        if key not in self._known:
            self._known = {key: self._mine(seed) if entry.ours else self._told(seed)}
        others = [each for each in self._tasks if each != task]
        if self._others is not None:
            rng = np.random.default_rng([seed, int(task.task_id)])
            chosen = rng.permutation(len(others))[: self._others]
            others = [others[at] for at in sorted(chosen)]
        history = self._known[key]
        return history.without(*({each.name for each in history.tasks} - {*map(name_in_history, others)}))

    def _mine(self, seed: int) -> History:
        return mined(self._bench, self._tasks, seed, inverted=self._inverted)

    def _told(self, seed: int) -> History:
        records = [
            {"task": name_in_history(task), **trial}
            for task in self._tasks
            for trial in past_trials(self._bench, task, seed, inverted=self._inverted)
        ]
        return History.from_records(records)


@click.command()
@path_option
@split_option
@click.option("--methods", default=",".join([*OURS, *TRANSFER]), show_default=True)
@click.option("--tasks", type=int, help="The first so many tasks of the split as targets; all by default.")
@click.option("--seeds", type=int, default=5, show_default=True)
@click.option("--budgets", default="1,2,5,10,20,50", show_default=True, help="Full trainings.")
@click.option("--others", type=int, help="Only so many other tasks are known; all by default.")
@click.option(
    "--features/--no-features", default=True, show_default=True, help="Whether tasks are described."
)
@click.option("--inverted", is_flag=True, help="The history misleads: what is good is told to be bad.")
@write_option
def main(
    path: Path,
    split: str,
    methods: str,
    tasks: int | None,
    seeds: int,
    budgets: str,
    others: int | None,
    features: bool,
    inverted: bool,
    write: bool,
) -> None:
    """Print normalised regret, average rank and speed-up of each method, and keep the traces."""
    bench = LcBench(path)
    every = bench.tasks(split)
    chosen = every[:tasks]
    epochs = [int(budget) * MAX_EPOCHS for budget in budgets.split(",")]
    variant = f"warm-{others or 'all'}{'' if features else '-bare'}{'-inverted' if inverted else ''}"
    past = Past(bench, every, others, inverted=inverted)
    cold = Traces(bench)
    kept = TraceFiles()
    runs: dict[str, dict[Task, list[Trace]]] = {}
    versions: dict[str, str] = {}
    for name in _COLD:
        runs[name] = {
            task: [cold.trace(name, task, seed, 1, epochs[-1]) for seed in range(seeds)] for task in chosen
        }
        versions[name] = cold.version(name, 1) or ""
    for name in methods.split(","):
        entry = {**OURS, **TRANSFER}[name]
        file = _file(name, entry, variant)
        if file is None:
            click.echo(f"{name} is left out: not installed", err=True)
            continue
        traces: dict[Task, list[Trace]] = {task: [] for task in chosen}
        for seed in range(seeds):
            for task in chosen:
                click.echo(f"{name}, seed {seed}, {task.name}", err=True)

                def measure(entry: TransferEntry = entry, task: Task = task, seed: int = seed) -> Trace:
                    problem = cold.problem(task)
                    described = task_features(task.facts) if features else {}
                    known = past.of(entry, task, seed)
                    search = entry.begin(problem.space, seed, problem.max_epochs, known, described)
                    return simulate(search, problem, workers=1, epochs=epochs[-1])

                traces[task].append(kept.get(file, (task.task_id, seed, epochs[-1]), measure))
        label = f"{name}, warm" if name in OURS else name
        runs[label], versions[label] = traces, file.stem
    references = {task: cold.reference(task) for task in chosen}
    qualities = assess(runs, references, epochs, baseline="random")
    (CACHE / f"{variant}-{split}.json").write_text(
        json.dumps({name: {"version": versions[name], **asdict(each)} for name, each in qualities.items()})
    )
    known = counted(others or len(every) - 1, "other task")
    about = (
        f"### Warm start: {counted(len(chosen), f'{split} task')} x {counted(seeds, 'seed')}\n\n"
        f"Known are {TRIALS} random trials of each of {known}, {'with' if features else 'without'} features"
        f"{', the values inverted' if inverted else ''}. Mean normalised regret ± standard error over tasks "
        f"after so many full trainings of {MAX_EPOCHS} epochs, (average rank), and speed-up; one worker.\n\n"
    )
    table = about + markdown_table(
        ["method", *budgets.split(","), "speed-up", "version"],
        [quality_row(name, each, versions[name]) for name, each in qualities.items()],
    )
    publish(f"{variant}-{split}-{len(chosen)}x{seeds}", table, write=write)


def _file(name: str, entry: TransferEntry, variant: str) -> Path | None:
    """Return where the traces of a method are kept; None if it can neither be measured nor has been."""
    folder = (CACHE if entry.ours else PEERS) / variant / name
    if entry.version is not None:
        return folder / f"{entry.version}.jsonl"
    return max(folder.glob("*.jsonl"), key=lambda path: Version(path.stem), default=None)


if __name__ == "__main__":
    main()
