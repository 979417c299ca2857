"""The command `mlflow-hpo prune`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from mlflow_hpo.commands.common import echo, echo_json, reported
from mlflow_hpo.errors import ConfigError

if TYPE_CHECKING:
    from mlflow_hpo.retention import Retention
    from mlflow_hpo.tracking.pruning import StoredCheckpoint


@click.command()
@click.argument("run_id")
@click.option(
    "--keep",
    required=True,
    metavar="best[:K]|last|none",
    help="What stays: the checkpoints of the best trial, or of the best K; the newest of each trial; none.",
)
@click.option(
    "--also-paused", is_flag=True, help="Also what paused trials need; they begin again when resumed."
)
@click.option("--yes", is_flag=True, help="Remove them; without it nothing is changed.")
@click.option("--json", "as_json", is_flag=True, help="All of it as JSON.")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def prune(run_id: str, keep: str, also_paused: bool, yes: bool, as_json: bool, debug: bool) -> None:
    """Remove checkpoints of the study RUN_ID; without --yes only tell which.

    A paused trial keeps its newest one. Metrics, parameters, the logged model and all else stay as they are.
    """
    with reported(debug):
        from mlflow_hpo.tracking.pruning import plan_pruning
        from mlflow_hpo.tracking.pruning import prune as remove

        pruning = plan_pruning(run_id, _policy(keep), also_paused=also_paused)
        if yes:
            remove(pruning)
        if as_json:
            told = {name: _as_data(getattr(pruning, name)) for name in ("kept", "removed")}
            echo_json({"run_id": run_id, "done": yes, **told})
            return
        what = "removed" if yes else "would go"
        for each in pruning.removed:
            echo(f"{what}: trial {each.trial_id}, epoch {each.epoch}, {_mib([each])}")
        echo(f"{what}: {_count(pruning.removed)}; stays: {_count(pruning.kept)}")
        if pruning.removed and not yes:
            echo("nothing was changed: --yes removes them")


def _policy(keep: str) -> Retention | None:
    from mlflow_hpo.retention import Retention

    if keep == "none":
        return None
    try:
        policy = Retention.parse(keep)
    except ConfigError:
        policy = None
    if policy is None or policy.kind == "all":
        raise ConfigError("keep", f"must be best, best:k (k of 1 or more), last or none, got {keep!r:.80}")
    return policy


def _count(checkpoints: Sequence[StoredCheckpoint]) -> str:
    trials = len({each.trial_id for each in checkpoints})
    return f"{len(checkpoints)} checkpoints of {trials} trials, {_mib(checkpoints)}"


def _mib(checkpoints: Sequence[StoredCheckpoint]) -> str:
    return f"{sum(each.size for each in checkpoints) / 2**20:.2f} MiB"


def _as_data(checkpoints: Sequence[StoredCheckpoint]) -> list[dict[str, object]]:
    return [dataclasses.asdict(each) | {"epoch": each.epoch} for each in checkpoints]
