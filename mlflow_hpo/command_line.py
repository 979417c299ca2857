"""A command line with what it takes to run it, and to end it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CommandLine:
    """What a project has a launcher run for a trial.

    Attributes:
        arguments: the command and its arguments.
        env: the environment in which it runs.
        ending: a command that ends what it has running out of reach of signals, such as a container, and may
            find nothing to end; empty where all of it are processes of its own.
    """

    arguments: Sequence[str]
    env: Mapping[str, str]
    ending: Sequence[str] = ()
