"""Can studies write to the tracking store and to the artifact store?"""

from __future__ import annotations

import contextlib
import os
import re
import time
import uuid
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import mlflow
import requests
from mlflow.entities import Experiment
from mlflow.tracking import MlflowClient

from mlflow_hpo.doctor.findings import Finding, fault, ok, warning
from mlflow_hpo.errors import StudyError
from mlflow_hpo.patience import impatient
from mlflow_hpo.tracking.artifacts import check_writable, reach_artifacts
from mlflow_hpo.tracking.connect import PORTS, ask, connect, public_uri, reach
from mlflow_hpo.tracking.lease import RENEWAL

TRACKING, ARTIFACTS, CLOCK = "tracking store", "artifact store", "clock"
SETTING = "MLFLOW_TRACKING_URI"
KIND = {"hpo.kind": "doctor"}
RUN_NAME = "mlflow-hpo-doctor"
TIMEOUT = 5.0  # seconds that a server may take to tell version and time
SKEW = RENEWAL / 2  # seconds; leases compare the clocks of two machines

_CURES = [  # what the message of a store matches -> what to do; the first one counts
    (
        r"CERTIFICATE|certificate|SSLError",
        "set MLFLOW_TRACKING_SERVER_CERT_PATH to the authority's certificate that the server's is signed by",
    ),
    (
        r"error code 40[13]\b|UNAUTHENTICATED|PERMISSION_DENIED|Permission denied",
        "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, to a login "
        "that may write there",
    ),
    (
        r"authentication failed|Access denied|no password supplied|role .* does not exist",
        f"correct user name and password in {SETTING}",
    ),
    (r"database \".*\" does not exist|Unknown database", f"create that database, or correct {SETTING}"),
    (
        r"No module named '?([\w.]+)|Can't load plugin",
        "pip install 'mlflow-hpo[postgres]', or your database's driver",
    ),
    (
        r"readonly|read-only|unable to open database file|disk I/O error",
        "make the database file and its folder writable for this user (SQLite writes beside the file, too), "
        f"or set {SETTING} to another",
    ),
    (r"database is locked", "end the process that holds the file, or use a server for many writers"),
    (r"not a database|malformed", f"restore the file from a backup, or set {SETTING} to another"),
    (r"error code 404\b", f"set {SETTING} to the root of an MLflow server, with its --static-prefix if any"),
    (
        r"cannot reach|Max retries|[Tt]imed? ?out|error code 5\d\d|[Rr]efused|Connection",
        f"start the server, or set {SETTING} to where it runs; check host, port, proxy and VPN",
    ),
]


class Tracking(NamedTuple):
    """What is to be said of the tracking store, and its client where it is usable."""

    findings: list[Finding]
    client: MlflowClient | None


def check_tracking() -> Tracking:
    """Check that the tracking store answers, lets us in, and has the tables of this MLflow.

    Nothing is written: MLflow itself would at once migrate a database that lacks a table, which is for its
    owner to decide.
    """
    uri = mlflow.get_tracking_uri()
    shown = public_uri(uri)
    problem = f"{SETTING}: cannot use {shown}"
    try:
        reach(SETTING, uri)
        if is_database(uri):
            with impatient():
                unready = ask(problem, _unready, uri, shown)
            if unready is not None:
                return Tracking([unready], None)
        client = connect()
    except StudyError as error:
        return Tracking([fault(TRACKING, str(error), cure_of(str(error)))], None)
    return Tracking([ok(TRACKING, f"{shown} answers")], client)


def check_server() -> Iterator[Finding]:
    """Check version and clock of a tracking server, if it is one."""
    uri = mlflow.get_tracking_uri()
    if urlsplit(uri).scheme not in ("http", "https"):
        return
    insecure = os.environ.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() in ("true", "1")
    verify: bool | str = os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH") or not insecure
    begin = time.time()
    try:
        answer = requests.get(f"{uri.rstrip('/')}/version", timeout=TIMEOUT, verify=verify)
        end = time.time()
        theirs = parsedate_to_datetime(answer.headers["Date"]).timestamp()
    except (requests.RequestException, KeyError, ValueError) as error:
        yield warning(
            CLOCK,
            f"the server does not tell its time ({type(error).__name__})",
            "compare the clocks of both machines by hand: timedatectl",
        )
        return
    yield judge_clock(theirs, begin, end)
    version = answer.text.strip() if answer.ok else ""
    if re.fullmatch(r"\d+\.\d+[\w.]*", version):
        yield judge_version(version)


def judge_clock(theirs: float, begin: float, end: float) -> Finding:
    """Return what is to be said of a server's time, which it told between `begin` and `end` of ours."""
    # the header is cut to whole seconds
    difference = max(begin - (theirs + 1.0), theirs - end, 0.0)
    if difference <= SKEW:
        return ok(CLOCK, f"agrees with the server's within {max(1.0, difference):.0f} s")
    way = "ahead of" if theirs < begin else "behind"
    return warning(
        CLOCK,
        f"this machine's is {difference:.0f} s {way} the server's: drivers on two machines may take a study "
        "from each other, and S3 refuses requests that are 15 minutes off",
        "switch on NTP on both machines: timedatectl set-ntp true",
    )


def judge_version(server: str) -> Finding:
    """Return what is to be said of the version of a tracking server."""
    ours = mlflow.__version__
    if int(server.partition(".")[0]) < int(ours.partition(".")[0]):
        return warning(
            TRACKING,
            f"the server is MLflow {server}, older than MLflow {ours} here: models cannot be logged to it",
            f"upgrade the server: pip install 'mlflow>={ours.partition('.')[0]}', then mlflow db upgrade",
        )
    return ok(TRACKING, f"the server is MLflow {server}, here is {ours}")


def check_writing(client: MlflowClient, experiment: Experiment | None) -> Iterator[Finding]:
    """Check that a study could write its runs and artifacts, by a run that is deleted again.

    The run is made where studies go, as servers give permissions by experiment; where there is no experiment
    yet, in one that is made for it and deleted, too. Both stay in the store's trash until `mlflow gc`.

    Args:
        client: of the tracking store.
        experiment: where studies go; None if it does not exist yet.
    """
    problem = f"{SETTING}: cannot write to {public_uri(mlflow.get_tracking_uri())}"
    made = None
    try:
        with impatient():
            if experiment is None:
                name = f"{RUN_NAME}-{uuid.uuid4().hex[:12]}"
                made = ask(problem, client.create_experiment, name, tags=KIND)
                experiment = ask(problem, client.get_experiment, made)
            yield from _written(client, experiment.experiment_id, problem)
    except StudyError as error:
        yield fault(TRACKING, str(error), cure_of(str(error)))
    if experiment is not None:
        yield check_artifacts(experiment.artifact_location)
    if made is not None:
        with contextlib.suppress(Exception):  # it is empty, and its name tells whose it is
            client.delete_experiment(made)


def _written(client: MlflowClient, experiment_id: str, problem: str) -> Iterator[Finding]:
    run = ask(problem, client.create_run, experiment_id, tags=KIND, run_name=RUN_NAME)
    run_id = run.info.run_id
    ask(problem, client.log_metric, run_id, "written", 1.0)
    ask(problem, client.set_terminated, run_id)
    try:
        client.delete_run(run_id)
    except Exception as error:  # noqa: BLE001  the run is there, whatever the reason
        yield warning(
            TRACKING,
            f"writable, but runs cannot be deleted: {' '.join(str(error).split()):.200}",
            f"delete the run {run_id} with a login that may",
        )
    else:
        yield ok(TRACKING, "writable (a run was made and deleted)")


def check_artifacts(uri: str) -> Finding:
    """Check that artifacts can be written below `uri`: a tiny one is, and is removed again."""
    folder = _local(uri)
    missing = [each for each in (folder, *folder.parents) if not each.exists()] if folder else []
    try:
        check_writable(uri, mlflow.get_tracking_uri())
    except StudyError as error:
        text, cure = _split(str(error))
        return fault(ARTIFACTS, text, cure or _cure_of_artifacts(uri))
    finally:
        for each in missing:  # what was made for the artifact, the innermost first
            with contextlib.suppress(OSError):
                each.rmdir()
    return ok(ARTIFACTS, f"{public_uri(uri)} is writable")


def check_reaching(experiment: Experiment | None) -> Iterator[Finding]:
    """Check that the artifact store of an experiment answers, and write nothing."""
    if experiment is None:
        return
    uri = experiment.artifact_location
    try:
        reach_artifacts(uri)
    except StudyError as error:
        text, cure = _split(str(error))
        yield fault(ARTIFACTS, text, cure or _cure_of_artifacts(uri))
    else:
        yield ok(ARTIFACTS, f"{public_uri(uri)} (nothing was written)")


def cure_of(message: str) -> str:
    """Return what to do about an error of the tracking store."""
    for pattern, cure in _CURES:
        if re.search(pattern, message):
            return cure
    return f"correct {SETTING}, or what the message says of the store"


def is_database(uri: str) -> bool:
    """Return whether a tracking URI names a database.

    >>> is_database("postgresql+psycopg://db/mlflow"), is_database("http://mlflow.example")
    (True, False)
    """
    return urlsplit(uri).scheme.split("+")[0] in {"sqlite", *PORTS} - {"http", "https"}


def _unready(uri: str, shown: str) -> Finding | None:
    """Return why a database cannot be used as it is, or is to be left alone; None if it can be used."""
    from mlflow.store.db.utils import create_sqlalchemy_engine  # brings SQLAlchemy: not for every store
    from sqlalchemy import inspect, text

    if (file := _missing_file(uri)) is not None:
        folder = file.parent
        if folder.is_dir() and os.access(folder, os.W_OK | os.X_OK):
            return ok(TRACKING, f"{shown} does not exist yet; the first study makes it")
        return fault(
            TRACKING,
            f"{SETTING}: {shown} does not exist, and cannot be made in {folder}",
            f"make a folder that this user may write to, or set {SETTING} to another",
        )
    engine = create_sqlalchemy_engine(uri)
    try:
        with engine.connect() as connection:
            tables = set(inspect(connection).get_table_names())
            if not tables:
                return ok(TRACKING, f"{shown} is empty; the first study makes MLflow's tables")
            rows: list[Any] = []
            if "alembic_version" in tables:
                rows = list(connection.execute(text("SELECT version_num FROM alembic_version")).scalars())
    finally:
        engine.dispose()
    return judge_schema(rows, shown)


def judge_schema(versions: list[str], shown: str) -> Finding | None:
    """Return what is wrong with the versions that a database says it has; None if nothing is."""
    from alembic.script import ScriptDirectory
    from alembic.util import CommandError
    from mlflow.store import db_migrations

    scripts = ScriptDirectory(str(Path(db_migrations.__path__[0])))
    head = scripts.get_current_head()
    if versions == [head]:
        return None
    found = ", ".join(versions) or "none"
    try:
        known = all(scripts.get_revision(version) is not None for version in versions)
    except CommandError:
        known = False
    if versions and not known:
        return fault(
            TRACKING,
            f"{shown} was made by a newer MLflow than {mlflow.__version__} here (schema {found})",
            "pip install --upgrade mlflow to the version that the others use",
        )
    return fault(
        TRACKING,
        f"{shown} has the schema of an older MLflow ({found}, MLflow {mlflow.__version__} needs {head})",
        f"back the database up, then: mlflow db upgrade {shown} (with its user name and password, if any)",
    )


def _missing_file(uri: str) -> Path | None:
    """Return the file of a SQLite database that does not exist yet."""
    from sqlalchemy.engine import make_url

    url = make_url(uri)
    name = url.database
    if url.get_backend_name() != "sqlite" or not name or name == ":memory:" or name.startswith("file:"):
        return None
    path = Path(name).absolute()
    return None if os.path.lexists(path) else path


def _local(uri: str) -> Path | None:
    parts = urlsplit(uri)
    return Path(unquote(parts.path)).absolute() if parts.scheme in ("", "file") else None


def _split(message: str) -> tuple[str, str]:
    """Return problem and cure of a message of the artifact store, which may hold both."""
    for mark in ("; ", ": set "):
        text, found, cure = message.partition(mark)
        if found:
            return text, (found + cure).lstrip(":; ")
    return message, ""


def _cure_of_artifacts(uri: str) -> str:
    scheme = urlsplit(uri).scheme
    if scheme == "s3":
        return (
            "start the S3 server, or set MLFLOW_S3_ENDPOINT_URL to where it is (unset it for Amazon's); "
            "check AWS_DEFAULT_REGION, proxy and VPN"
        )
    if scheme in ("mlflow-artifacts", "http", "https"):
        return "the server writes these: look into its log, check its --artifacts-destination and credentials"
    if scheme in ("", "file"):
        return (
            "make the folder writable for this user; if it is one of another machine, let the server proxy "
            "artifacts (mlflow server --serve-artifacts) or choose another artifact location"
        )
    return "check the credentials for this kind of store, and that its Python package is installed"
