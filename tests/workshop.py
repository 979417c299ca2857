"""Where the examples of the guide run."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass, field
from pathlib import Path


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
