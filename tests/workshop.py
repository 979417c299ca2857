"""Where the examples of the guide run."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import mlflow

PROJECT_SEARCH = (
    "mlflow run https://github.com/you/project --backend hpo --backend-config search.json -P data=train.csv"
)


@dataclass(frozen=True)
class Workshop:
    """Where the commands of the guide run.

    Attributes:
        folder: their working directory.
        environment: theirs.
        run_id: the study of which `RUN_ID` stands.
        trial_run_id: its best trial; both "" where there is none.
        done: commands that have been run.
    """

    folder: Path
    environment: dict[str, str]
    run_id: str = ""
    trial_run_id: str = ""
    done: set[str] = field(default_factory=set)

    def run(self, script: str, timeout: float = 240) -> subprocess.CompletedProcess[str]:
        """Run a script of the shell to its end; it fails where one of its commands does."""
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
            check=False,
        )

    def study_of_project(self) -> str:
        """Return the study of the project that the guide takes for granted; it is made if need be."""
        client = mlflow.MlflowClient(self.environment["MLFLOW_TRACKING_URI"])
        experiments = [each.experiment_id for each in client.search_experiments()]
        search = f"{PROJECT_SEARCH} --env-manager local"
        if search not in self.done:
            made = self.run(search)
            assert made.returncode == 0, made.stdout
            self.done.add(search)
        where = "tags.`hpo.kind` = 'study' and tags.`mlflow.source.name` LIKE 'https://%'"
        [latest, *_] = client.search_runs(experiments, where)
        return str(latest.info.run_id)
