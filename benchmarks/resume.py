"""How long it takes to resume a large study whose driver was killed, and how much memory that needs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

import click
from instant import InstantLauncher
from memory import memory
from options import write_option
from report import markdown_table, publish

from mlflow_hpo import Study
from mlflow_hpo.launchers import LAUNCHERS

SPACE = {
    "x": {"type": "float", "low": 0.0, "high": 1.0},
    **{f"y{number}": {"type": "float", "low": 0.0, "high": 1.0} for number in range(4)},
}


def train(trial: object) -> None:
    """Stands for a training; the launcher answers for it."""


class Watch:
    """Notes how many trials there are as time goes on, kills the process, or notes when a study goes on.

    Args:
        kill_at: so many trials; None to leave it alive.
    """

    def __init__(self, kill_at: int | None) -> None:
        self.kill_at = kill_at
        self.live: float | None = None
        self.rates: dict[int, float] = {}
        self._next = 1

    def started(self, summary: object) -> None:
        """Take note of where the state of the study is to be had."""
        self._begin = time.monotonic()

    def happened(self, message: str) -> None:
        """Take note of the moment from which a study makes new history."""
        if message.startswith("resumed"):
            self.live = time.monotonic()
            click.echo(message, err=True)
        if match := re.match(r"trial (\d+): finished", message):
            done = int(match[1]) + 1
            if done in (100, 300, 1000, 3000, 10_000):
                self.rates[done] = (time.monotonic() - self._begin) / done
                click.echo(
                    f"{done}: {1000 * self.rates[done]:.1f} ms a trial, {memory('VmRSS'):.0f} MiB", err=True
                )
            if self.kill_at is not None and done >= self.kill_at:
                time.sleep(2)
                print(json.dumps({"memory": round(memory("VmHWM")), "rates": self.rates}), flush=True)
                os._exit(9)

    def ticked(self) -> None:
        """Nothing to do."""

    def ended(self) -> None:
        """Nothing to do."""


@click.group(invoke_without_command=True)
@click.pass_context
@click.option("--trials", default=10_000, show_default=True)
@click.option("--epochs", default=50, show_default=True)
@click.option("--searcher", default="tpe", show_default=True)
@write_option
def main(context: click.Context, trials: int, epochs: int, searcher: str, write: bool) -> None:
    """Kill a study just before its end, in SQLite, and resume it in a fresh process."""
    if context.invoked_subcommand:
        return
    with tempfile.TemporaryDirectory() as folder:
        env = {
            **os.environ,
            "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
            "MLFLOW_EXPERIMENT_NAME": "resume",
        }
        run = [sys.executable, str(Path(__file__).resolve())]
        args = [str(trials), str(epochs), searcher]
        done = subprocess.run([*run, "killed", *args], env=env, cwd=folder, stdout=subprocess.PIPE)
        first = json.loads(done.stdout)
        done = subprocess.run([*run, "resumed"], env=env, cwd=folder, stdout=subprocess.PIPE, check=True)
        second = json.loads(done.stdout)
    rows = [
        ["first driver, until it was killed", f"{1000 * list(first['rates'].values())[-1]:.1f} ms a trial",
         f"{first['memory']}"],
        ["second driver, until the study went on", f"{second['seconds']:.1f} s", f"{second['memory']}"],
    ]  # fmt: skip
    grown = ", ".join(f"{1000 * each:.1f} ms at {done}" for done, each in first["rates"].items())
    about = (
        f"### Resuming\n\n{trials:,} trials of {epochs} epochs that take no time, in SQLite, with "
        f"`{searcher}` and `full`; killed at the last but ten. A trial cost the first driver (in the mean so "
        f"far) {grown}. "
        "The second one is timed from its start, imports counted.\n\n"
    )
    publish("resume", about + markdown_table(["what", "time", "peak memory, MiB"], rows), write=write)


@main.command(hidden=True)
@click.argument("trials", type=int)
@click.argument("epochs", type=int)
@click.argument("searcher")
def killed(trials: int, epochs: int, searcher: str) -> None:
    """Run a study that kills itself."""
    with mock.patch.object(LAUNCHERS, "get", return_value=InstantLauncher):
        Study(
            train,
            SPACE,
            listener=Watch(trials - 10),
            metric="loss",
            mode="min",
            searcher=searcher,
            scheduler="full",
            max_resource=epochs,
            trials=trials,
        ).run()


@main.command(hidden=True)
def resumed() -> None:
    """Resume it."""
    begin = time.monotonic() - time.clock_gettime(time.CLOCK_PROCESS_CPUTIME_ID)  # imports counted
    import mlflow

    [study] = mlflow.search_runs(
        experiment_names=["resume"], filter_string="tags.`hpo.kind` = 'study'", output_format="list"
    )
    watch = Watch(None)
    with mock.patch.object(LAUNCHERS, "get", return_value=InstantLauncher):
        Study(train, listener=watch, resume=study.info.run_id).run()
    print(json.dumps({"seconds": watch.live - begin, "memory": round(memory("VmHWM"))}))


if __name__ == "__main__":
    main()
