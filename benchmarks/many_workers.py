"""How busy a search keeps many workers: epochs in simulated time, decisions at what they really cost."""

from __future__ import annotations

import heapq
import time

import click
import numpy as np
from engine_speed import SPACE
from methods import method
from options import write_option
from report import markdown_table, publish

_EPOCHS = 50


def _busy(name: str, workers: int, trials: int, seconds: float) -> tuple[float, int, float]:
    """Return the share of the time in which workers train, the decisions made, and their mean cost in ms.

    One driver answers one worker after the other; whoever waits for it is idle. The search ends when so many
    trials have begun; an epoch takes `seconds`, give or take a tenth.
    """
    search = method(name).make(SPACE, 0, _EPOCHS)
    rng = np.random.default_rng(0)
    ends: list[tuple[float, int]] = [(0.0, worker) for worker in range(workers)]
    jobs: dict[int, object] = {}
    begun: set = set()
    free_at = trained = spent = 0.0
    decisions = 0
    while len(begun) < trials:
        now, worker = heapq.heappop(ends)
        job = jobs.pop(worker, None)
        values = (
            [] if job is None else [_value(job, epoch, rng) for epoch in range(job.start + 1, job.stop + 1)]
        )
        begin = time.process_time()
        for epoch, value in enumerate(values, 1 if job is None else job.start + 1):
            search.report(job.trial, epoch, value)
        if job is not None:
            search.complete(job.trial)
        job = search.ask()
        cost = time.process_time() - begin
        if job is None:
            raise RuntimeError(f"{name} hands out nothing to worker {worker}")
        jobs[worker] = job
        begun.add(job.trial)
        decisions += 1
        spent += cost
        free_at = max(now, free_at) + cost
        duration = (job.stop - job.start) * seconds * rng.uniform(0.9, 1.1)
        trained += duration
        heapq.heappush(ends, (free_at + duration, worker))
    # what still runs counts up to now only
    trained -= sum(max(0.0, end - free_at) for end, _ in ends)
    return trained / (workers * free_at), decisions, 1e3 * spent / decisions


def _value(job: object, epoch: int, rng: np.random.Generator) -> float:
    return 1 - abs(np.log(job.config["learning_rate"] / 0.01)) - 1 / epoch + rng.normal(scale=0.1)


@click.command()
@click.option("--methods", default="auto+auto,tpe+asha,random+asha", show_default=True)
@click.option("--workers", type=int, default=1000, show_default=True)
@click.option("--trials", type=int, default=20_000, show_default=True)
@click.option("--seconds", type=float, default=60.0, show_default=True, help="Of an epoch.")
@write_option
def main(methods: str, workers: int, trials: int, seconds: float, write: bool) -> None:
    """Print how busy each search keeps its workers."""
    rows = []
    for name in methods.split(","):
        busy, decisions, cost = _busy(name, workers, trials, seconds)
        rows.append([f"`{name}`", f"{100 * busy:.1f} %", f"{decisions:,}", f"{cost:.2f}"])
        click.echo(" ".join(rows[-1]), err=True)
    about = (
        f"### Many workers\n\n{workers:,} simulated workers with epochs of {seconds:.0f} s, until {trials:,} "
        "trials have begun: the share of the time in which they train, the decisions, and the mean CPU "
        "milliseconds of one, reports included. One driver makes all decisions one after the other.\n\n"
    )
    table = about + markdown_table(["method", "busy", "decisions", "ms"], rows)
    publish("many-workers", table, write=write)


if __name__ == "__main__":
    main()
