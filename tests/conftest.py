import contextlib
import faulthandler
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import pytest
from launching import Run, starting
from mlflow.tracking import MlflowClient

os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")  # as workers have it: what is trained here is the same there
pytest.register_assert_rewrite("mlflow_hpo.testing")


def pytest_addoption(parser):
    parser.addoption(
        "--full-size",
        action="store_true",
        help="All variants of long tests; 10,000 trials for every searcher with every scheduler (hours with "
        "gp and optuna); 100 kills of a study's driver; outages of a minute.",
    )


# modules that take long, the longest first: begun first, so that no worker is alone with one at the end
LONG = (
    *(
        "servers/test_studies.py",
        "test_resume.py",
        "projects/test_foreign_projects.py",
        "projects/test_ends.py",
    ),
    *("test_project.py", "metalearning/test_warm_start.py", "servers/test_bad_stores.py"),
    *("docs/test_snippets.py", "launchers/test_ray.py", "test_cli.py", "test_study.py"),
    *("searchers/test_freeze_thaw.py", "test_reproducible.py", "tracking/test_lost_server.py"),
    *("servers/test_secured.py", "reports/test_report_page.py", "servers/test_outages.py"),
)


def pytest_collection_modifyitems(config, items):
    if not config.getoption("full_size"):
        left_out = [item for item in items if item.get_closest_marker("full_size")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
    place = {Path(__file__).parent / module: at for at, module in enumerate(LONG)}
    items.sort(key=lambda item: place.get(item.path, len(LONG)))


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory):
    """A migrated SQLite store; creating the tables takes seconds, copying them does not."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    code = f"import mlflow; mlflow.MlflowClient('sqlite:///{path}').search_experiments()"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=path.parent)
    return path


@pytest.fixture
def store(empty_store, tmp_path, monkeypatch):
    """A client of a store of its own in `tmp_path`, which is the working directory, too."""
    shutil.copyfile(empty_store, tmp_path / "mlflow.db")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "test")
    monkeypatch.setenv("MLFLOW_HPO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MLFLOW_HPO_SPOOL", str(tmp_path / "spool"))
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    # mlflow.set_experiment leaves its choice in both; the next test has a store of its own
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "")
    monkeypatch.delenv("MLFLOW_EXPERIMENT_ID")
    monkeypatch.setattr("mlflow.tracking.fluent._active_experiment_id", None)
    mlflow.set_tracking_uri(uri)
    yield MlflowClient(uri)
    mlflow.set_tracking_uri(None)


@pytest.fixture(scope="session")
def postgres():
    """A PostgreSQL cluster of the tests' own."""
    from server_processes import NotInstalledError, postgres_cluster  # brings psycopg: not for every test

    with contextlib.ExitStack() as stack:
        try:
            cluster = stack.enter_context(postgres_cluster("fsync=off"))
        except NotInstalledError as missing:
            pytest.skip(str(missing))
        yield cluster


@pytest.fixture
def start_jobs(tmp_path):
    """Start a launcher for one training; its `submit` and `to_end` run jobs. Closed at the end."""
    with starting(Run, tmp_path) as start:
        yield start


@pytest.fixture
def start_process():
    """Start a command in a process group of its own; whatever is left of it is killed at the end."""
    started = []

    def start(*command, **options):
        process = subprocess.Popen(
            [str(part) for part in command],
            start_new_session=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            **options,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.fixture
def wait_for():
    """Wait until a condition holds, and return what it returned."""

    def wait(condition, seconds=60):
        deadline = time.monotonic() + seconds
        while not (result := condition()):
            if time.monotonic() > deadline:
                faulthandler.dump_traceback()  # what all threads do meanwhile
                pytest.fail("waited in vain")
            time.sleep(0.05)
        return result

    return wait


@pytest.fixture(scope="session")
def tests_folder():
    return Path(__file__).parent
