"""Trials per minute of whole searches that are tracked in MLflow, on the same training: ours and peers'."""

from __future__ import annotations

import functools
import importlib.metadata
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import click
import mlflow
from options import write_option
from report import markdown_table, publish
from whole_searches import EXPERIMENT, TOOLS
from workloads import Workload, digits, noop

sys.path.append(str(Path(__file__).parent.parent / "tests"))
from processes import clean_environment
from server_processes import mlflow_server, postgres_cluster

REPORTS, MORE = 10, 50  # of a trial that does nothing
WORKLOADS: Mapping[str, Callable[[], Workload]] = {
    "noop": lambda: noop(REPORTS),
    "more": lambda: noop(MORE),
    "digits": digits,
}
ROUNDS = 4  # trials of each worker at least
GIVE_UP = 240.0  # seconds for one search


@dataclass(frozen=True)
class Measured:
    """How quick a search was.

    Attributes:
        start: seconds from the call to the end of the first trial,
        trial: and of each trial from then on, up to the moment at which all is written; inf if it failed.
    """

    start: float
    trial: float

    @property
    def per_minute(self) -> float:
        """Trials per minute."""
        return 60 / self.trial


FAILED = Measured(float("inf"), float("inf"))


def rate(begin: float, ends: Sequence[float], over: float, workers: int) -> Measured:
    """Return how quick a search was.

    The first half of the trials is not counted, and at least one for each worker: meanwhile the others may
    still load what they need.

    Args:
        begin, over: when the search was called and when it returned.
        ends: of its trials.
        workers: at a time.

    >>> rate(0.0, [3.0, 5.0, 6.0, 7.0, 8.0], 9.0, workers=2)
    Measured(start=3.0, trial=1.3333333333333333)
    """
    ends = sorted(ends)
    first = max(workers, len(ends) // 2)
    return Measured(ends[0] - begin, (over - ends[first - 1]) / (len(ends) - first))


@click.group(invoke_without_command=True)
@click.pass_context
@click.option("--trials", default=600, show_default=True, help="Of ours that do nothing.")
@click.option("--peers", default=60, show_default=True, help="Of Optuna's that do nothing.")
@click.option("--few", default=10, show_default=True, help="Of Ray's, and of each tool that trains.")
@click.option("--flat", default="100,1000,5000", show_default=True, help="Ours after so many trials.")
@click.option("--workers", default="1,2,8", show_default=True)
@click.option("--tools", default=",".join(TOOLS), show_default=True)
@click.option("--server/--no-server", default=True, help="Also an `mlflow server` with PostgreSQL.")
@write_option
def main(
    context: click.Context,
    trials: int,
    peers: int,
    few: int,
    flat: str,
    workers: str,
    tools: str,
    server: bool,
    write: bool,
) -> None:
    """Run searches by each tool, one after the other, each in a process and with a store of its own."""
    if context.invoked_subcommand:
        return
    at = [int(number) for number in workers.split(",")]
    names = tools.split(",")
    sizes = dict.fromkeys(names, peers) | {"ours": trials, "none": trials, "ray": few}
    trained = dict.fromkeys(names, few)
    sections = [
        _compared(f"A trial that does nothing but report {REPORTS} times, SQLite", "noop", names, at, sizes),
        _compared("The MLP on the digits, 9 epochs, SQLite", "digits", names, at, trained),
    ]
    if server:
        title = f"A trial that reports {REPORTS} times, `mlflow server` with PostgreSQL"
        slow = {name: max(size // 2, few) for name, size in sizes.items()}
        tools_there = [name for name in names if name != "none"]
        sections.append(_compared(title, "noop", tools_there, at[-1:], slow, server=True))
    sections.append(_overhead(names, sizes))
    sections.append(_flat([int(number) for number in flat.split(",")]))
    about = (
        "### Throughput\n\nTrials per minute, with everything written at the end. Start-up is not counted: "
        "the clock starts when half of the trials have ended, and as many as there are workers. "
        "`start`: seconds to the end of the first trial, with the fewest workers.\n\n"
    )
    publish("throughput", about + "\n\n".join(sections), write=write)


def _compared(
    title: str,
    workload: str,
    names: Sequence[str],
    workers: Sequence[int],
    sizes: Mapping[str, int],
    *,
    server: bool = False,
) -> str:
    """Return a table of trials per minute, and what ours are of the best peer's."""
    found = {
        name: [
            _measured(name, workload, number, sizes[name], server=server)
            for number in (workers if name != "none" else workers[:1])
        ]
        for name in names
    }
    rows = [
        [
            TOOLS[name][2],
            *(_shown(each) for each in measured),
            *["-"] * (len(workers) - len(measured)),
            f"{measured[0].start:.1f}",
            importlib.metadata.version(TOOLS[name][1]),
        ]
        for name, measured in found.items()
    ]
    others = [measured for name, measured in found.items() if name not in ("ours", "none")]
    if "ours" in found and others:
        best = [max(each[place].per_minute for each in others) for place in range(len(workers))]
        ratios = [f"{mine.per_minute / other:.1f}" for mine, other in zip(found["ours"], best, strict=True)]
        rows.append(["ours / the best peer", *ratios, "", ""])
    head = ["tool", *(f"{number} worker{'s' * (number > 1)}" for number in workers), "start", "version"]
    return f"{title}:\n\n{markdown_table(head, rows)}"


def _overhead(names: Sequence[str], sizes: Mapping[str, int]) -> str:
    """Return a table of what a trial costs beside its reports, and a report."""
    rows = []
    for name in names:
        few = _measured(name, "noop", 1, sizes[name]).trial
        many = _measured(name, "more", 1, max(sizes[name] // 4, 10)).trial
        report = (many - few) / (MORE - REPORTS)
        rows.append([TOOLS[name][2], f"{1000 * (few - REPORTS * report):.1f}", f"{1000 * report:.2f}"])
    return (
        f"Milliseconds with one worker, SQLite, from trials of {REPORTS} and of {MORE} reports:\n\n"
        + markdown_table(["tool", "a trial", "a report"], rows)
    )


def _flat(trials: Sequence[int]) -> str:
    """Return a table of what a trial of ours costs in searches of several sizes."""
    row = ["ours", *(f"{1000 * _measured('ours', 'noop', 1, number).trial:.1f}" for number in trials)]
    head = ["milliseconds a trial", *(f"{number:,} trials" for number in trials)]
    return (
        f"Whole searches of ours with one worker, trials that report {REPORTS} times, SQLite:\n\n"
        + markdown_table(head, [row])
    )


def _shown(measured: Measured) -> str:
    return "failed" if measured is FAILED else f"{measured.per_minute:,.0f}"


@functools.cache
def _measured(tool: str, workload: str, workers: int, trials: int, *, server: bool = False) -> Measured:
    """Run a search in a process of its own; say so where it fails.

    Each worker gets some trials at least: where many end together, few of them would be timed wrongly.
    """
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        uri = f"sqlite:///{folder}/mlflow.db"
        if server:
            cluster = stack.enter_context(postgres_cluster())
            uri = stack.enter_context(mlflow_server(cluster.create_database(), {}, folder))
        env = clean_environment(
            MLFLOW_TRACKING_URI=uri,
            MLFLOW_DISABLE_TELEMETRY="true",
            MLFLOW_HPO_SPOOL=str(folder / "spool"),
            OPENBLAS_NUM_THREADS="1",
            PYTHONPATH=os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]),
            RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS="0",
        )
        words = [sys.executable, str(Path(__file__).resolve()), "search", tool, workload]
        words += [str(max(trials, ROUNDS * workers)), str(workers), str(folder / "found.json")]
        if problem := _run(words, env, folder):
            tail = (folder / "tool.log").read_text()[-2000:]
            click.echo(f"{tool}, {workload}, {workers} workers: {problem}\n{tail}", err=True)
            return FAILED
        found = Measured(**json.loads((folder / "found.json").read_text()))
    click.echo(f"{tool}, {workload}, {workers} workers: {found}", err=True)
    return found


def _run(words: Sequence[str], env: Mapping[str, str], folder: Path) -> str:
    """Run a command and end all that it started; return what went wrong, "" if nothing did."""
    with (folder / "tool.log").open("w") as log:
        process = subprocess.Popen(words, env=env, cwd=folder, stdout=log, stderr=log, start_new_session=True)
        try:
            code = process.wait(GIVE_UP)
        except subprocess.TimeoutExpired:
            return f"took longer than {GIVE_UP:g} seconds"
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return f"exit code {code}" if code else ""


@main.command(hidden=True)
@click.argument("tool")
@click.argument("workload")
@click.argument("trials", type=int)
@click.argument("workers", type=int)
@click.argument("output", type=Path)
def search(tool: str, workload: str, trials: int, workers: int, output: Path) -> None:
    """Run a search; write how quick it was."""
    mlflow.MlflowClient().search_experiments()  # makes the tables
    begin = time.time()
    TOOLS[tool][0](WORKLOADS[workload](), trials, workers)
    over = time.time()
    runs = mlflow.search_runs(experiment_names=[EXPERIMENT], output_format="list", max_results=50_000)
    ends = [run.info.end_time / 1000 for run in runs if run.data.tags.get("hpo.kind") != "study"]
    if len(ends) != trials or {run.info.status for run in runs} != {"FINISHED"}:
        raise click.ClickException(f"{len(ends)} of {trials} trials are there, or not all finished")
    measured = rate(begin, ends, over, workers)
    output.write_text(json.dumps({"start": measured.start, "trial": measured.trial}))


if __name__ == "__main__":
    main()
