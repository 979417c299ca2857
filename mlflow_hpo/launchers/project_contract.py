"""What the project launcher must know of the project that it runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from mlflow_hpo.command_line import CommandLine
from mlflow_hpo.trial import Described


@runtime_checkable
class Project(Described, Protocol):
    """What a launcher must know of a project, each trial of which is a run of its entry point.

    Attributes:
        metrics: names of those that the search looks at, the optimised one first.
        max_resource: epochs of a full training.
        sets_resource: whether the script is told how many epochs to train, and ends by itself.
        resumes: whether it goes on from the checkpoint that it is given the path of.
        counts_values: whether the values of a metric are counted, whatever their steps.
        poll_interval: seconds between two looks at what a script has logged.
        stop_grace: seconds that it has to end by itself when it is stopped.
        folder: where it lies, and runs.
        copies: whether each slot has a copy of that for itself.
    """

    metrics: Sequence[str]
    max_resource: int
    sets_resource: bool
    resumes: bool
    counts_values: bool
    poll_interval: float
    stop_grace: float
    folder: Path
    copies: bool

    def command(
        self,
        params: Mapping[str, object],
        stop: int,
        *,
        seed: int,
        checkpoint: Path,
        downloads: Path,
        env: Mapping[str, str],
    ) -> CommandLine:
        """Return the command line that trains a configuration to the epoch `stop`.

        Args:
            params: the configuration.
            stop: the epoch.
            seed: of the trial, if the script takes one.
            checkpoint: where the script keeps its checkpoint, if it takes one.
            downloads: an empty folder for what the parameters name and is not on this machine.
            env: what the script is to find in its environment: its run, its share of the machine, and what
                the driver has there.
        """
