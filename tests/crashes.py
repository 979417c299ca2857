"""Studies whose drivers are killed: start one, kill it with its workers, resume it in a fresh process."""

from __future__ import annotations

import contextlib
import random
import subprocess
import sys
import time
from pathlib import Path

import psutil
from mlflow.tracking import MlflowClient

HERE = Path(__file__).parent
CLOCK = ("seed",)


class Driver:
    """A process that drives a study to its end unless it is killed before.

    Args:
        folder: its working directory, which holds the store.
        train: name of a function of `trainings`.
        keys: Python source of the study's keys.
        resume: the parent run of a study that goes on; None to begin one.
    """

    def __init__(self, folder: Path, train: str, keys: str, resume: str | None = None) -> None:
        code = (
            f"import sys; sys.path.insert(0, {str(HERE)!r}); import trainings; from mlflow_hpo import tune; "
            + (
                f"tune(trainings.{train}, trainings.SPACE, {keys})"
                if resume is None
                else f"tune(trainings.{train}, resume={resume!r})"
            )
        )
        self.log = folder / "driver.log"
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-c", code], cwd=folder, stdout=output, stderr=subprocess.STDOUT
            )

    def kill(self) -> None:
        """SIGKILL to the driver and all its workers."""
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(self.process.pid)
            family = [process, *process.children(recursive=True)]
            for each in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    each.kill()
            psutil.wait_procs(family[1:], timeout=10)
        self.process.wait()

    def ended(self, within: float) -> bool:
        """Wait for its end; return whether it came, by itself and well."""
        try:
            code = self.process.wait(within)
        except subprocess.TimeoutExpired:
            return False
        assert code == 0, self.log.read_text(errors="replace")[-4000:]
        return True


def study_of(store: MlflowClient, experiment: str) -> str | None:
    """Return the parent run of the only study of an experiment, once it can be resumed."""
    found = store.get_experiment_by_name(experiment)
    if found is None:
        return None
    runs = store.search_runs([found.experiment_id], "tags.`hpo.kind` = 'study'")
    assert len(runs) < 2, "another study was begun"
    return runs[0].info.run_id if runs else None


def searched_with_kills(
    store: MlflowClient,
    folder: Path,
    experiment: str,
    train: str,
    keys: str,
    *,
    kills: int,
    seed: int,
    begin: float = 1.5,
    longest: float = 4.0,
    patience: float = 240.0,
) -> tuple[str, int]:
    """Run a study, killing its driver again and again; return its parent run and how often it was killed.

    Args:
        kills: how often it is killed at most; then it may end.
        seed: of the moments, `begin` to `longest` seconds after each start.
    """
    rng = random.Random(seed)
    keys = f"{keys}, experiment={experiment!r}"
    killed = 0
    while True:
        driver = Driver(folder, train, keys, study_of(store, experiment))
        try:
            if killed == kills:
                assert driver.ended(patience), driver.log.read_text(errors="replace")[-4000:]
            elif not driver.ended(rng.uniform(begin, longest)):
                driver.kill()
                killed += 1
                continue
        finally:
            driver.kill()
        run_id = study_of(store, experiment)
        assert run_id is not None
        return run_id, killed


def told(store: MlflowClient, run_id: str) -> dict[int, tuple[object, ...]]:
    """Return all that the trials' runs tell of the search: params, status, every metric step by step."""
    experiment = store.get_run(run_id).info.experiment_id
    runs = store.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{run_id}'", max_results=10_000)
    found: dict[int, tuple[object, ...]] = {}
    for run in runs:
        names = [name for name in run.data.metrics if not name.startswith("system/")]
        points = {
            name: [(m.step, m.value) for m in store.get_metric_history(run.info.run_id, name)]
            for name in names
        }
        for name, steps in points.items():
            assert len({step for step, _ in steps}) == len(steps), f"{name} of a trial is written twice"
        trial = int(run.data.tags["hpo.trial"])
        assert trial not in found, f"trial {trial} has two runs"
        tags = {name: value for name, value in run.data.tags.items() if name in _TAGS and value != ""}
        found[trial] = (run.data.params, run.info.status, tags, points)
    return found


_TAGS = ("hpo.bracket", "hpo.rung", "hpo.seed", "hpo.epochs", "hpo.best_epoch", "hpo.stop_reason")


def wait_until_running(store: MlflowClient, experiment: str, timeout: float = 60.0) -> str:
    """Return the parent run of a study once it has a trial."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        run_id = study_of(store, experiment)
        if run_id is not None:
            where = store.get_run(run_id).info.experiment_id
            if store.search_runs([where], f"tags.`mlflow.parentRunId` = '{run_id}'", max_results=1):
                return run_id
        time.sleep(0.2)
    raise TimeoutError("no trial was started")
