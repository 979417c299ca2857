"""How long it takes to read a crowded server: ours, the first and the second time, and MLflow's own way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import mlflow
from crowded_store import METRIC, PLAIN, SPACE, STUDIES, fill
from memory import memory
from options import write_option
from report import markdown_table, publish

from mlflow_hpo import History
from mlflow_hpo.metalearning.cache import FOLDER

sys.path.append(str(Path(__file__).parent.parent / "tests"))
from server_processes import mlflow_server, postgres_cluster


@click.group(invoke_without_command=True)
@click.pass_context
@click.option("--studies", type=int, default=500, show_default=True)
@click.option("--trials", type=int, default=100, show_default=True, help="Of each study.")
@write_option
def main(context: click.Context, studies: int, trials: int, write: bool) -> None:
    """Read studies, and as many plain runs as they have trials, from PostgreSQL behind `mlflow server`."""
    if context.invoked_subcommand:
        return
    with tempfile.TemporaryDirectory() as name, postgres_cluster() as cluster:
        folder = Path(name)
        backend = cluster.create_database()
        begin = time.monotonic()
        fill(backend, folder, studies, trials)
        click.echo(f"filled in {time.monotonic() - begin:.0f} s", err=True)
        with mlflow_server(backend, {}, folder) as uri:
            rows = [row for experiment in (STUDIES, PLAIN) for row in _rows(experiment, uri, folder)]
    head = ["what is read", "how", "seconds", "CPU seconds of the reader", "peak memory, MiB", "found"]
    about = (
        f"### Mining\n\n{studies * trials:,} runs, as {studies} studies or as plain runs that were logged "
        "without this package, 5 params and 10 epochs each, in PostgreSQL behind a default `mlflow server`; "
        "each reading in a process of its own, imports not counted.\n\n"
    )
    table = about + markdown_table(head, rows)
    publish("mining", table, write=write)


def _rows(experiment: str, uri: str, folder: Path) -> list[list[str]]:
    """Return the rows of the table about one experiment."""
    ways = {"`mlflow.search_runs`": "listed", "ours, first time": "mined", "ours, second time": "mined"}
    rows = []
    for how, command in ways.items():
        env = {**os.environ, "MLFLOW_TRACKING_URI": uri, FOLDER: str(folder / "cache" / experiment)}
        done = subprocess.run(
            [sys.executable, __file__, command, experiment], env=env, check=True, stdout=subprocess.PIPE
        )
        found = json.loads(done.stdout)
        rows.append(
            [
                experiment,
                how,
                f"{found['seconds']:.1f}",
                f"{found['cpu']:.1f}",
                f"{found['peak']:,.0f}",
                found["found"],
            ]
        )
        click.echo(rows[-1], err=True)
    return rows


def _report(begin: float, cpu: float, found: str) -> None:
    peak = memory("VmHWM")
    seconds, used = time.monotonic() - begin, time.process_time() - cpu
    click.echo(json.dumps({"seconds": seconds, "cpu": used, "peak": peak, "found": found}))


@main.command(hidden=True)
@click.argument("experiment")
def listed(experiment: str) -> None:
    """List all runs as MLflow does."""
    begin, cpu = time.monotonic(), time.process_time()
    runs = mlflow.search_runs(experiment_names=[experiment], max_results=1_000_000)
    _report(begin, cpu, f"{len(runs):,} runs")


@main.command(hidden=True)
@click.argument("experiment")
def mined(experiment: str) -> None:
    """Mine the experiment."""
    begin, cpu = time.monotonic(), time.process_time()
    history = History.from_mlflow([experiment], metric=METRIC, mode="max", space=SPACE)
    _report(begin, cpu, repr(history))


if __name__ == "__main__":
    main()
