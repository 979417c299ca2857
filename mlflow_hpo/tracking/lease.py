"""Lease: the parent run says who drives a study, so that nobody else does at the same time."""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Mapping
from typing import Any

import psutil
from mlflow.tracking import MlflowClient

from mlflow_hpo.errors import StudyError
from mlflow_hpo.tracking.connect import without_passwords
from mlflow_hpo.tracking.transport import own_retries

DRIVER = "hpo.driver"  # tag of the parent run
TERM = 90.0  # seconds that a lease lasts
RENEWAL = 20.0  # seconds between two renewals
WAIT = 5.0  # seconds that the end waits for a renewal on its way

logger = logging.getLogger(__name__)


class LeaseLostError(StudyError):
    """Another driver has taken the study over; this one must leave its runs alone."""


class Lease:
    """Who drives a study, and until when, as JSON in a tag of its parent run.

    MLflow has no lock. A driver writes itself down and then looks whether it still stands there; of two that
    do so at the same time the later one wins.

    Args:
        client: of the tracking store.
        run_id: the parent run.
    """

    def __init__(self, client: MlflowClient, run_id: str) -> None:
        self._client = client
        self._run_id = run_id
        self._me = {
            "id": uuid.uuid4().hex,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "started": psutil.Process().create_time(),
        }

    def take(self, *, take_over: bool) -> bool:
        """Become the driver; return whether another one was at work until now.

        Args:
            take_over: even where another one may be at work; wait until it will have noticed.

        Raises:
            StudyError: another driver is at work.
        """
        other = _read(self._client.get_run(self._run_id).data.tags)
        if at_work := _at_work(other):
            if not take_over:
                raise StudyError(
                    f"resume: run {self._run_id} is driven by process {other['pid']} on {other['host']}, "
                    f"for {other['until'] - time.time():.0f} seconds more unless it goes on; "
                    "--take-over takes it from it"
                )
            self._write()
            time.sleep(RENEWAL * 1.25)
        else:
            self._write()
        self.check()
        return at_work

    def renew(self) -> None:
        """Stay the driver for another term.

        Raises:
            LeaseLostError: another one is it.
        """
        self.check()
        self._write()

    def check(self) -> None:
        """Look whether this is the driver.

        Raises:
            LeaseLostError: another one is it.
        """
        tags = self._client.get_run(self._run_id).data.tags
        found = _read(tags)
        if DRIVER in tags and found.get("id") != self._me["id"]:  # a new study's may be still on its way
            raise LeaseLostError(
                f"run {self._run_id} was taken over by process {found.get('pid')} on {found.get('host')}"
            )

    def tag(self) -> dict[str, str]:
        """Return the tag that makes this the driver of a run that nobody else knows yet."""
        return {DRIVER: json.dumps({**self._me, "until": round(time.time() + TERM)})}

    def release(self) -> None:
        """Be the driver no more."""
        self._client.set_tag(self._run_id, DRIVER, "")

    def _write(self) -> None:
        for name, value in self.tag().items():
            self._client.set_tag(self._run_id, name, value)


class Renewals:
    """Renews a lease now and then, from a thread of its own, so that nothing else can hold it up.

    Args:
        lease: which the caller has.
    """

    def __init__(self, lease: Lease) -> None:
        self._lease = lease
        self._lost: LeaseLostError | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew, daemon=True, name="mlflow-hpo-lease")
        self._thread.start()

    def check(self) -> None:
        """Raise LeaseLostError where another driver was found to have the lease."""
        if self._lost is not None:
            raise self._lost

    def end(self) -> None:
        """Leave the lease as it is. May be called more than once."""
        self._ended.set()
        self._thread.join(WAIT)

    def _renew(self) -> None:
        with own_retries():
            while not self._ended.wait(RENEWAL):
                try:
                    self._lease.renew()
                except LeaseLostError as error:
                    self._lost = error
                    return
                except Exception as error:  # noqa: BLE001  the store may be back by the next time
                    line = without_passwords(" ".join(str(error).split()))
                    logger.warning("the lease of the study was not renewed: %.300s", line)


def driver(tags: Mapping[str, str]) -> str:
    """Return who may be at work on the study whose parent run has these tags, in words; "" for nobody."""
    found = _read(tags)
    return f"process {found.get('pid')} on {found.get('host')}" if _at_work(found) else ""


def _read(tags: Mapping[str, str]) -> dict[str, Any]:
    try:
        found = json.loads(tags.get(DRIVER) or "{}")
        return {**found, "until": float(found["until"])} if found else {}
    except (ValueError, TypeError, KeyError):
        return {}


def _at_work(driver: Mapping[str, Any]) -> bool:
    """Whether a driver may be at work; one of this machine whose process is gone is not."""
    if not driver or driver["until"] < time.time():
        return False
    if driver.get("host") != socket.gethostname():
        return True
    try:
        process = psutil.Process(int(driver["pid"]))
        return bool(abs(process.create_time() - float(driver["started"])) < 1.0)
    except (psutil.Error, KeyError, TypeError, ValueError):
        return False
