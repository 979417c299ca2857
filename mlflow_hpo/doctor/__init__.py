"""Doctor: looks at everything that a study needs on this machine and its servers, and names the cures."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stdout

import mlflow
from mlflow.entities import Experiment

from mlflow_hpo.doctor.findings import Finding, Level, fault, without_secrets
from mlflow_hpo.doctor.gpu import check_gpu
from mlflow_hpo.doctor.installation import check_backend, check_others, check_packages, check_python
from mlflow_hpo.doctor.machine import check_folders, check_spools
from mlflow_hpo.doctor.settings import check_experiment, check_run_id, check_store_kind, is_file_store
from mlflow_hpo.doctor.stores import check_reaching, check_server, check_tracking, check_writing
from mlflow_hpo.tracking.connect import is_uri

__all__ = ["Finding", "Level", "examine"]


def examine(experiment: str | None = None, *, writing: bool = True) -> list[Finding]:
    """Return what a study would meet here. A check that breaks is a finding, too; nothing is raised.

    Args:
        experiment: where studies are to go; None for what MLflow's settings say.
        writing: whether to try that runs and artifacts can be written; what is written is deleted again.
    """
    checks: list[Callable[[], Iterable[Finding]]] = [
        *(check_python, check_packages, check_backend, check_others, check_gpu),
        *(check_run_id, check_store_kind, lambda: _stores(experiment, writing)),
        *(check_folders, check_spools),
    ]
    with _quiet():
        found = [finding for check in checks for finding in _unbroken(check)]
        return without_secrets(found, [mlflow.get_tracking_uri()])


def _stores(name: str | None, writing: bool) -> Iterator[Finding]:
    if not is_uri(uri := mlflow.get_tracking_uri()) or is_file_store(uri):  # told already
        return
    findings, client = check_tracking()
    yield from findings
    if client is None:
        return
    yield from check_server()
    experiment: Experiment | None = None
    broken = False
    for found in check_experiment(client, name):
        if isinstance(found, Finding):
            broken |= found.level is Level.FAULT
            yield found
        else:
            experiment = found
    if not writing:
        yield from check_reaching(experiment)
    elif experiment is not None or not broken:
        yield from check_writing(client, experiment)


def _unbroken(check: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    try:
        yield from check()
    except Exception as error:  # noqa: BLE001  the others are to be looked at all the same
        line = f"{type(error).__name__}: {' '.join(str(error).split()):.300}"
        yield fault(
            "doctor", f"a check broke: {line}", "what it names may be damaged; tell the makers otherwise"
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep MLflow from logging what is told as a finding, and plugins from printing into what is told."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        logging.disable(before)
