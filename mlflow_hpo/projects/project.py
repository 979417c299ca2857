"""A project as a study searches it: checked, its environment made, its command for each configuration."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from mlflow.exceptions import MlflowException

from mlflow_hpo.command_line import CommandLine
from mlflow_hpo.config import ProjectKeys, StudyConfig
from mlflow_hpo.errors import ConfigError
from mlflow_hpo.projects.environment import Environment
from mlflow_hpo.projects.fetching import FetchedProject
from mlflow_hpo.projects.parameters import check_parameters
from mlflow_hpo.space import SearchSpace
from mlflow_hpo.tracking.connect import without_passwords

SEED = "seed"  # the parameter that takes the trial's seed, unless another one is named
TASK_LENGTH = 500  # characters of the name of a task
SECRET = re.compile(  # at the end of a name: not tokenizer, max_tokens or keypoints
    r"(password|passwd|passphrase|secret|credentials?|(^|[_.-])(pass|pwd|token)|^key"
    r"|(api|access|auth|private|secret|account|encryption|ssh)[_.-]?(key|token))$",
    re.IGNORECASE,
)


class SearchedProject:
    """Training code for a study with the launcher "project": an entry point that knows nothing of it.

    Args:
        fetched: the project.
        config: of the study.
        fixed: parameters that are the same for all trials.
        environment: where it runs.
        scratch: a folder for what fixed parameters of type path name and is not on this machine.
    """

    def __init__(
        self,
        fetched: FetchedProject,
        config: StudyConfig,
        fixed: Mapping[str, str],
        *,
        environment: Environment,
        scratch: Path,
    ) -> None:
        keys = config.project or ProjectKeys()
        self.metrics: Sequence[str] = config.metrics
        self.max_resource = config.max_resource
        self.sets_resource = keys.resource_parameter is not None
        self.resumes = keys.checkpoint_parameter is not None
        self.counts_values = keys.steps == "count"
        self.poll_interval = keys.poll_interval
        self.stop_grace = keys.stop_grace
        self.folder = fetched.folder
        self.copies = keys.copies
        self._fetched = fetched
        self._keys = keys
        self._space = config.space
        self._given = fixed
        self._fixed = dict(fixed)
        self._environment = environment
        self._scratch = scratch

    def check_params(self, space: SearchSpace) -> None:
        """Raise ConfigError for what the entry point does not take."""
        named = {
            f"project.{field}": name
            for field in ("resource_parameter", "checkpoint_parameter")
            if (name := getattr(self._keys, field)) is not None
        }
        if (seed_parameter := self._seed_parameter) is not None:
            named["project.seed_parameter"] = seed_parameter
        check_parameters(space, self._fetched.entry_point, self._fixed, named)

    def prepare(self) -> None:
        """Fetch what fixed parameters of type path name, and make the environment.

        Raises:
            ConfigError: that is not possible.
        """
        self._localise()
        self._environment.prepare()

    def describe(self) -> dict[str, str]:
        """Return what is searched: the project, its entry point, what is fixed, and where it runs."""
        entry_point = self._fetched.entry_point.name
        fixed = ", ".join(f"{name}={_shown(name, value)}" for name, value in sorted(self._given.items()))
        name = self._fetched.name + (f":{entry_point}" if entry_point != "main" else "")
        return {
            "data": without_passwords(f"{name} ({fixed})" if fixed else name)[:TASK_LENGTH],
            "project": self._fetched.uri,
            "entry_point": entry_point,
            **self._environment.describe(),
        }

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

        Every value is quoted, as MLflow does it. Raises ConfigError where MLflow does not take one.
        """
        given: dict[str, object] = {**self._fixed, **self._space.format(params)}
        if self._keys.resource_parameter is not None:
            given[self._keys.resource_parameter] = str(stop)
        if self._keys.checkpoint_parameter is not None:
            given[self._keys.checkpoint_parameter] = str(checkpoint)
        if (seed_parameter := self._seed_parameter) is not None:
            given[seed_parameter] = str(seed)
        try:
            command = self._fetched.entry_point.compute_command(given, str(downloads))
        except (MlflowException, KeyError, OSError) as error:
            line = without_passwords(" ".join(str(error).split()))
            raise ConfigError("entry point", f"{line:.400}") from error
        return self._environment.line(command, env, (checkpoint.parent, downloads, self._scratch))

    @property
    def _seed_parameter(self) -> str | None:
        """The parameter that takes the trial's seed, None where the script gets none."""
        if self._keys.seed_parameter is not None:
            return self._keys.seed_parameter
        declared = self._fetched.entry_point.parameters.get(SEED)
        taken = SEED in self._space or SEED in self._given
        return None if declared is None or taken or declared.type in ("path", "uri") else SEED

    def _localise(self) -> None:
        """Have paths that are the same for all trials on this machine, once."""
        for position, (name, parameter) in enumerate(self._fetched.entry_point.parameters.items()):
            if parameter.type != "path" or name in self._space:
                continue
            value = self._fixed.get(name, parameter.default)
            try:
                self._fixed[name] = parameter.compute_value(value, str(self._scratch), position)
            except Exception as error:
                line = without_passwords(" ".join(str(error).split()))
                raise ConfigError(name, f"cannot get {value!r:.200}: {line:.300}") from error


def _shown(name: str, value: str) -> str:
    """Return a fixed parameter as anyone may read it."""
    return "***" if SECRET.search(name) else value
