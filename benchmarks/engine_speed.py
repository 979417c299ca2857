"""What asking and reporting cost, with more and more trials known and pending: ours against the peers."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import mean, median

import click
import numpy as np
from methods import METHODS, method
from options import write_option
from report import markdown_table, publish
from simulator import Method

from mlflow_hpo import SearchSpace

_EPOCHS = 27
_METHODS = [
    "auto+auto",
    "random+asha",
    "hyperopt",
    "optuna-tpe",
    "optuna-tpe-hyperband",
    "syne-asha",
    "syne-bohb",
]
SPACE = SearchSpace(
    {
        "learning_rate": {"type": "float", "low": 1e-4, "high": 1e-1, "log": True},
        "batch_size": {"type": "int", "low": 16, "high": 512, "log": True},
        "momentum": {"type": "float", "low": 0.1, "high": 0.99},
        "weight_decay": {"type": "float", "low": 1e-5, "high": 1e-1, "log": True},
        "dropout": {"type": "float", "low": 0.0, "high": 0.5},
    }
)


class _Pool:
    """So many workers, all of them at work; epochs take no time."""

    def __init__(self, search: Method, workers: int) -> None:
        self.search = search
        self.rng = np.random.default_rng(0)
        self.jobs: list = []  # of the running trials
        self.started: set = set()
        self.asks: list[int] = []  # nanoseconds of CPU
        self.reports: list[int] = []
        self._workers = workers

    def turn(self) -> None:
        """Let idle workers ask; then let one trial, taken by chance, end its job."""
        while len(self.jobs) < self._workers:
            job, cost = _timed(self.search.ask)
            if job is None:
                break
            self.asks.append(cost)
            self.jobs.append(job)
            self.started.add(job.trial)
        index = self.rng.integers(len(self.jobs))
        self.jobs[index], self.jobs[-1] = self.jobs[-1], self.jobs[index]
        job = self.jobs.pop()
        for epoch in range(job.start + 1, job.stop + 1):
            goes_on, cost = _timed(lambda e=epoch: self.search.report(job.trial, e, self._value(job, e)))
            self.reports.append(cost)
            if not goes_on:
                break
        self.search.complete(job.trial)

    def _value(self, job: object, epoch: int) -> float:
        return 1 - abs(np.log(job.config["learning_rate"] / 0.01)) - 1 / epoch + self.rng.normal(scale=0.1)


def _timed(call: Callable) -> tuple:
    begin = time.process_time_ns()
    answer = call()
    return answer, time.process_time_ns() - begin


def _measure(name: str, trials: int, pending: int, patience: float) -> str:
    """Return median and mean of asks and the median of reports when `trials` are known, or why not."""
    pool = _Pool(method(name).make(SPACE, 0, _EPOCHS), pending)
    begin = time.monotonic()
    while len(pool.started) < trials:
        if time.monotonic() - begin > patience:
            return f"> {patience:.0f} s"
        pool.turn()
    last = max(20, trials // 20)
    asks, reports = pool.asks[-last:], pool.reports[-last:]
    return f"{median(asks) / 1e3:,.0f} ({mean(asks) / 1e3:,.0f}) / {median(reports) / 1e3:,.0f}"


@click.command()
@click.option("--methods", default=",".join(_METHODS), show_default=True)
@click.option("--trials", default="100,1000,10000", show_default=True)
@click.option("--pending", default="1,100,1000", show_default=True)
@click.option(
    "--patience", type=float, default=120.0, show_default=True, help="Seconds after which a cell is given up."
)
@write_option
def main(methods: str, trials: str, pending: str, patience: float, write: bool) -> None:
    """Print microseconds of CPU per ask and per report."""
    cells = [(int(t), int(p)) for t in trials.split(",") for p in pending.split(",") if int(p) <= int(t)]
    names = [name for name in methods.split(",") if name not in METHODS or method(name).version]
    rows = []
    for name in names:
        row = [f"`{name}`"]
        for known, running in cells:
            row.append(_measure(name, known, running, patience))
            click.echo(f"{name}, {known} trials, {running} pending: {row[-1]}", err=True)
        rows.append(row)
    head = ["method", *(f"{known:,} trials, {running:,} pending" for known, running in cells)]
    about = (
        "### Engine speed\n\nMicroseconds of CPU: median (mean) of an ask / median of a report, of the last "
        "5% of a search with so many trials, of which so many are pending; > where the search itself took "
        "longer.\n\n"
    )
    table = about + markdown_table(head, rows)
    publish("engine-speed", table, write=write)


if __name__ == "__main__":
    main()
