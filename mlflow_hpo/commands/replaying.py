"""The command `mlflow-hpo replay`."""

from __future__ import annotations

import dataclasses
import sys

import click

from mlflow_hpo.commands.common import RUNTIME, echo, echo_json, reported


@click.command()
@click.argument("trial_run_id")
@click.option(
    "--tolerance",
    default=1e-6,
    show_default=True,
    type=click.FloatRange(0),
    help="Values match that differ by no more than this, relatively or absolutely.",
)
@click.option(
    "--metric",
    "metrics",
    multiple=True,
    metavar="NAME",
    help="Compare this one only; may be repeated. By default all but times (epoch_seconds).",
)
@click.option("--json", "as_json", is_flag=True, help="All of it as JSON.")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def replay(trial_run_id: str, tolerance: float, metrics: tuple[str, ...], as_json: bool, debug: bool) -> None:
    """Train one recorded trial again, and say whether its metrics match the recorded ones.

    It is trained from its beginning, in a process of its own, with its parameters and seed. Nothing is
    written to MLflow. Exit code 0 if all epochs match, 1 if one differs, or if the training fails now.
    """
    with reported(debug):
        from mlflow_hpo.replaying import replay as trained_again

        def tell(line: str) -> None:
            echo(line, err=True)

        done = trained_again(trial_run_id, metrics=metrics, tolerance=tolerance, tell=tell)
        trial, difference = done.trial, done.difference
        if as_json:
            echo_json(
                {
                    "trial": trial.trial_id,
                    "run_id": trial.run_id,
                    "match": difference is None,
                    "epochs": done.epochs,
                    "metrics": done.metrics,
                    "tolerance": tolerance,
                    "device": done.device,
                    "difference": None if difference is None else dataclasses.asdict(difference),
                }
            )
        elif difference is None:
            echo(
                f"trial {trial.trial_id} matches: {len(done.metrics)} metrics of {done.epochs} epochs, "
                f"within {tolerance:g}, on {done.device}"
            )
        else:
            again = "nothing" if difference.again is None else repr(difference.again)
            echo(
                f"trial {trial.trial_id} differs from epoch {difference.epoch} on: {difference.metric} was "
                f"{difference.recorded!r}, is now {again} on {done.device}; the tolerance is {tolerance:g}"
            )
    if difference is not None:
        sys.exit(RUNTIME)
