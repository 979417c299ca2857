"""The errors that users see: one line, naming the field, the value and what is allowed."""

from __future__ import annotations


class HpoError(Exception):
    """Base of every error that `mlflow_hpo` raises on purpose."""


class ConfigError(HpoError, ValueError):
    """The user's input is wrong; raised before anything is launched.

    Args:
        field: dotted path of the field, such as ``"space.learning_rate.low"``.
        problem: what is wrong with its value and what is allowed.

    >>> raise ConfigError("trials", "must be 1 or more, got 0")
    Traceback (most recent call last):
        ...
    mlflow_hpo.errors.ConfigError: trials: must be 1 or more, got 0
    """

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem

    def under(self, parent: str) -> ConfigError:
        """Return the same error for a field that is nested below `parent`."""
        return ConfigError(f"{parent}.{self.field}" if self.field else parent, self.problem)


class StudyError(HpoError, RuntimeError):
    """The study cannot start or go on: store unreachable, metric never reported, every trial failed."""


class StoreAwayError(StudyError):
    """A store does not answer, or has too much to do: trying again later makes sense."""


class CorruptCheckpointError(HpoError):
    """A stored checkpoint does not have the SHA-256 that it was stored with."""
