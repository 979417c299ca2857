"""Whole studies on simulated clusters: how busy thousands of workers are, and what the driver needs."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import click
import mlflow
from cluster import Cluster, ClusterLauncher
from memory import memory
from options import write_option
from report import markdown_table, publish

from mlflow_hpo import Study
from mlflow_hpo.launchers import LAUNCHERS

SPACE = {
    "learning_rate": {"type": "float", "low": 1e-4, "high": 1e-1, "log": True},
    "momentum": {"type": "float", "low": 0.1, "high": 0.99},
    "dropout": {"type": "float", "low": 0.0, "high": 0.9},
    "batch_size": {"type": "int", "low": 16, "high": 512, "log": True},
    "optimizer": {"type": "categorical", "choices": ["adam", "sgd"]},
}
EPOCHS = 27
HOUR = 3600.0


def train(trial: object) -> None:
    """Stands for a training; the cluster answers for it."""


def curve(params: Mapping[str, Any], epoch: int) -> float:
    """Return the loss of a configuration after so many epochs."""
    distance = abs(math.log10(params["learning_rate"]) + 2) + abs(params["momentum"] - 0.9)
    return distance + params["dropout"] / 10 + 1 / epoch


def simulate(cluster: Cluster, trials: int, searcher: str) -> tuple[Study, ClusterLauncher]:
    """Run a study with ASHA on a cluster; return both."""
    launcher = ClusterLauncher(cluster, curve)
    with mock.patch.object(LAUNCHERS, "get", return_value=lambda workers: launcher):
        study = Study(
            train,
            SPACE,
            metric="loss",
            mode="min",
            searcher=searcher,
            scheduler="asha",
            max_resource=EPOCHS,
            trials=trials,
            workers=cluster.workers,
        )
    study.run()
    return study, launcher


def states(study: Study) -> dict[str, int]:
    """Return how many of the study's trials have which status in the store."""
    runs = mlflow.search_runs(
        search_all_experiments=True,
        filter_string=f"tags.`mlflow.parentRunId` = '{study.run_id}'",
        output_format="list",
        max_results=1_000_000,
    )
    return dict(Counter(run.info.status for run in runs))


def utilisation(launcher: ClusterLauncher, until: float) -> float:
    """Return the share of the workers' time before `until` in which they trained, without lost nodes'."""
    return launcher.busy.before(until) / launcher.available.before(until)


@click.group(invoke_without_command=True)
@click.pass_context
@click.option("--workers", default="1000,10000", show_default=True)
@click.option("--trials", default=20_000, show_default=True)
@click.option("--searcher", default="random", show_default=True)
@write_option
def main(context: click.Context, workers: str, trials: int, searcher: str, write: bool) -> None:
    """Run studies on simulated clusters, each in a process and with a store (SQLite) of its own."""
    if context.invoked_subcommand:
        return
    columns = []
    for number in workers.split(","):
        with tempfile.TemporaryDirectory() as folder:
            columns.append(_measured(number, trials, searcher, folder))
        click.echo(json.dumps(columns[-1]), err=True)
    cluster = Cluster(0)
    about = (
        f"### Simulated clusters\n\n{trials:,} trials of up to {EPOCHS} epochs by `{searcher}` and `asha`, "
        "tracked in SQLite. All times but the driver's are simulated. An epoch takes "
        f"{cluster.epoch:g} s (the median of a log-normal distribution with sigma {cluster.spread:g}), on "
        f"{100 * cluster.stragglers:g} % of the workers {cluster.slowness:g} times as long; a node of "
        f"{cluster.node} workers is lost after {cluster.lifetime / HOUR:g} hours in the mean, and is back "
        f"after {cluster.absence / 60:g} minutes.\n\n"
    )
    head = ["workers", *(f"{int(number):,}" for number in workers.split(","))]
    rows = [[name, *(column[name] for column in columns)] for name in columns[0]]
    publish("simulated-cluster", about + markdown_table(head, rows), write=write)


def _measured(workers: str, trials: int, searcher: str, folder: str) -> dict[str, str]:
    env = {
        **os.environ,
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
        "MLFLOW_EXPERIMENT_NAME": "cluster",
        "MLFLOW_HPO_SPOOL": f"{folder}/spool",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    words = [sys.executable, str(Path(__file__).resolve()), "one", workers, str(trials), searcher]
    done = subprocess.run(words, env=env, cwd=folder, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return found


@main.command(hidden=True)
@click.argument("workers", type=int)
@click.argument("trials", type=int)
@click.argument("searcher")
def one(workers: int, trials: int, searcher: str) -> None:
    """Run one study; print what it was like."""
    begin, cpu = time.monotonic(), time.process_time()
    study, launcher = simulate(Cluster(workers), trials, searcher)
    wall, cpu = time.monotonic() - begin, time.process_time() - cpu
    peak = memory("VmHWM")
    click.echo("\n" + json.dumps(figures(study, launcher, wall, cpu, peak)))


def figures(study: Study, launcher: ClusterLauncher, wall: float, cpu: float, peak: float) -> dict[str, str]:
    """Return what a study was like, in words.

    Args:
        study, launcher: the study, which is over.
        wall, cpu: seconds that its process took, and processor seconds.
        peak: its memory in MiB.
    """
    work = launcher.busy.before(math.inf)
    out = min(launcher.out, launcher.now)
    decisions = launcher.reports + launcher.jobs
    ended = states(study)
    return {
        "busy until the search runs out of trials": f"{100 * utilisation(launcher, out):.1f} %",
        "busy to the end": f"{100 * utilisation(launcher, math.inf):.1f} %",
        "the search runs out after, h": f"{out / HOUR:.2f}",
        "makespan, h": f"{launcher.now / HOUR:.2f}",
        "training / workers, h": f"{work / len(launcher.slots) / HOUR:.2f}",
        "the trial that trains longest, h": f"{max(launcher.trained.values()) / HOUR:.2f}",
        "jobs": f"{launcher.jobs:,}",
        "epochs": f"{launcher.reports:,}",
        "nodes lost": f"{launcher.nodes_lost:,}",
        "jobs lost with them": f"{launcher.jobs_lost:,}",
        "training lost with them": f"{100 * launcher.wasted / work:.2f} %",
        "trials ended": ", ".join(f"{number:,} {status}" for status, number in sorted(ended.items())),
        "driver, wall seconds": f"{wall:,.0f}",
        "driver, CPU seconds": f"{cpu:,.0f}",
        "driver, decisions": f"{decisions:,}",
        "driver, decisions a wall second": f"{decisions / wall:,.0f}",
        "driver, peak memory in MiB": f"{peak:,.0f}",
    }


if __name__ == "__main__":
    main()
