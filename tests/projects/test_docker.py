"""Projects with a docker_env: each trial runs in a container, which ends with it.

CI has no Docker engine, so most of this runs against a stand-in for docker; the search from end to end runs
on a real engine as well, where there is one.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from mlflow.exceptions import ExecutionException
from mlflow.projects._project_spec import load_project
from mlflow.tracking import MlflowClient
from processes import wait_for

from mlflow_hpo.command_line import CommandLine
from mlflow_hpo.launchers.processes import Command, Guard
from mlflow_hpo.plugin import HpoBackend
from mlflow_hpo.projects.docker import DockerEnvironment

PROGRAM = Path(__file__).with_name("docker_stand_in.py")
REAL_IMAGE = "ghcr.io/mlflow/mlflow:v3.17.2"
KEYS: dict[str, Any] = {
    "metric": {"name": "score", "mode": "max"},
    "space": {"x": {"type": "float", "low": 1, "high": 2}},
    "searcher": "random",
    "scheduler": "full",
    "max_resource": 2,
    "trials": 2,
    "workers": 2,
    "project": {"poll_interval": 0.1},
}


class StandIn:
    """What became of a stand-in for docker."""

    def __init__(self, state: Path) -> None:
        self.state = state

    def calls(self, *command: str) -> list[list[str]]:
        """Return the arguments with which commands of docker were called."""
        calls = [json.loads(line) for line in (self.state / "calls").read_text().splitlines()]
        return [call for call in calls if tuple(call[: len(command)]) == command]

    def running(self) -> list[psutil.Process]:
        """Return the first processes of all containers that run."""
        found = []
        for path in self.state.glob("containers/*/pid"):
            try:
                process = psutil.Process(int(path.read_text()))
                if process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except (psutil.NoSuchProcess, FileNotFoundError):
                continue
        return found


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """A stand-in for docker, first on the path."""
    state = tmp_path / "engine"
    for name in ("bin", "tags", "images", "containers"):
        (state / name).mkdir(parents=True)
    (state / "calls").touch()
    program = state / "bin" / "docker"
    program.write_text(f"#!{sys.executable} -IS\n{PROGRAM.read_text()}")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("DOCKER_STAND_IN", str(state))
    made = StandIn(state)
    yield made
    for process in made.running():
        process.kill()


def write_project(folder: Path, **docker_env: Any) -> Path:
    """Have a project run in containers."""
    folder.mkdir(exist_ok=True)
    spec = folder / "MLproject"
    text = spec.read_text() if spec.exists() else "name: x\nentry_points: {main: {command: x}}\n"
    spec.write_text(f"{text}docker_env: {json.dumps({'image': 'python', **docker_env})}\n")
    return folder


@pytest.fixture
def line(engine: StandIn, store: MlflowClient, tmp_path: Path) -> Callable[..., CommandLine]:
    """Prepares a project with a docker_env; returns the command line of a command in it."""

    def make(
        command: str = "true", *, env: dict[str, str] | None = None, given: Any = None, **docker_env: Any
    ) -> CommandLine:
        folder = write_project(tmp_path / "project", **docker_env)
        shared = tmp_path / "shared"
        scratch = tmp_path / "scratch"
        shared.mkdir(exist_ok=True)
        scratch.mkdir(exist_ok=True)
        environment = DockerEnvironment(
            load_project(str(folder)), folder, {"DOCKER_ARGS": given, "build_image": False}, scratch
        )
        environment.prepare()
        run = {"MLFLOW_TRACKING_URI": store.tracking_uri, "MLFLOW_EXPERIMENT_ID": "0", "MLFLOW_RUN_ID": "run"}
        return environment.line(command, {**os.environ, **run, **(env or {})}, [shared])

    return make


def ran(engine: StandIn, line: CommandLine) -> list[str]:
    """Run a command line to its end; return how docker was called for it."""
    subprocess.run(line.arguments, env=dict(line.env), check=True)
    return engine.calls("run")[-1]


def values(call: list[str], option: str) -> list[str]:
    """Return the values of an option in a call."""
    return [value for name, value in itertools.pairwise(call) if name == option]


@pytest.fixture(params=["stand-in", "real"])
def image(request: pytest.FixtureRequest) -> str:
    """A base image of an engine; of a real one where there is one."""
    if request.param == "stand-in":
        request.getfixturevalue("engine")
        return "python"
    if shutil.which("docker") is None or subprocess.run(["docker", "info"], capture_output=True).returncode:
        pytest.skip("no Docker engine answers here")
    return REAL_IMAGE


def test_a_search_runs_in_containers(
    image: str, search: Any, foreign: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COPIED", "of this machine")
    project = write_project(foreign("counting"), image=image, environment=[["SET", "in MLproject"], "COPIED"])
    script = project / "train.py"
    told = "import os; print(os.environ['SET'], os.environ['COPIED'], 'OMP_NUM_THREADS' in os.environ)\n"
    script.write_text(script.read_text() + told)
    done = search(project, KEYS, "-P", "epochs=2", "-P", "seconds=0", "--build-image")
    assert done.code == 0, done.output
    assert [run.info.status for run in done.trials] == ["FINISHED"] * 2
    assert {run.data.tags["mlflow.parentRunId"] for run in done.trials} == {done.study.info.run_id}
    assert [len(done.steps(run, "score")) for run in done.trials] == [2, 2]
    assert "in MLproject of this machine True\n" in done.log(done.trials[0])
    facts = json.loads(Path(done.store.download_artifacts(done.study.info.run_id, "data.json")).read_text())
    assert facts["image"].startswith("counting")
    if image == REAL_IMAGE:
        return
    engine = StandIn(Path(os.environ["DOCKER_STAND_IN"]))
    assert len(engine.calls("build")) == 1
    assert engine.running() == []
    runs = engine.calls("run")
    names = {values(call, "--name")[0] for call in runs}
    assert len(names) == 2
    assert {call[-1] for call in engine.calls("rm")} == names, "whatever became of their clients"
    for call in runs:
        assert facts["image.id"] in call
        assert "of this machine" not in str(call), "values may be secret, and anybody can read a command line"
        assert "in MLproject" not in str(call)


def test_what_a_container_gets(
    engine: StandIn, line: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "secret")
    monkeypatch.setenv("COPIED", "1")
    made = line(
        volumes=["/data:/data:ro", f"/elsewhere:{tmp_path / 'shared'}"],
        environment=["COPIED", ["OMP_NUM_THREADS", 7]],
        given={"network": "host", "init": True},
        env={"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "LD_LIBRARY_PATH": "/lib"},
    )
    call = values(["run", *made.arguments[2].split()], "--volume")
    assert call[:2] == ["/data:/data:ro", f"/elsewhere:{tmp_path / 'shared'}"]
    assert f"{tmp_path}:/mlflow/tmp/mlruns" in call, "SQLite's log lies beside the file"
    assert f"{tmp_path / 'shared'}:{tmp_path / 'shared'}" not in call, "the user's own is there"
    assert made.env["MLFLOW_TRACKING_URI"] == "sqlite:////mlflow/tmp/mlruns/mlflow.db"
    words = made.arguments[2].split()
    passed = values(words, "--env")
    assert {"MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_TRACKING_URI", "COPIED", "MKL_NUM_THREADS"} <= {
        *passed
    }
    assert "MLFLOW_TRACKING_PASSWORD" in passed
    assert "secret" not in made.arguments[2]
    assert not {"OMP_NUM_THREADS", "LD_LIBRARY_PATH", "PATH"} & {*passed}
    (file,) = values(words, "--env-file")
    assert Path(file).read_text() == "OMP_NUM_THREADS=7\n"
    assert values(words, "--network") == ["host"]
    assert words[-1] == "true"


def test_its_artifacts_and_folders_are_those_of_this_machine(
    engine: StandIn, line: Any, store: MlflowClient, tmp_path: Path
) -> None:
    artifacts = Path(store.get_experiment("0").artifact_location.removeprefix("file://"))
    call = ran(engine, line("touch {}".format(tmp_path / "shared" / "checkpoint")))
    assert (tmp_path / "shared" / "checkpoint").exists()
    assert {f"{path}:{path}" for path in (artifacts, tmp_path / "shared")} <= {*values(call, "--volume")}
    assert artifacts.is_dir(), "else the engine makes it, as root"


@pytest.mark.parametrize(
    ("visible", "given", "granted"),
    [
        ("2", {}, ['"device=2"']),
        ("0,1", {}, ['"device=0,1"']),
        ("-1", {}, []),
        ("", {}, []),
        ("2", {"gpus": "all"}, ["all"]),
    ],
)
def test_it_gets_the_gpus_of_its_slot(
    engine: StandIn, line: Any, visible: str, given: Any, granted: list[str]
) -> None:
    call = ran(engine, line(env={"CUDA_VISIBLE_DEVICES": visible}, given=given))
    assert values(call, "--gpus") == granted
    assert "CUDA_VISIBLE_DEVICES" not in call, "in the container they are numbered anew"


def waiting(folder: Path, on_term: str) -> str:
    """Return a command that waits for ever, and what it does at SIGTERM."""
    return f"bash -c 'trap \"{on_term}\" TERM; touch {folder}/ready; while true; do sleep 0.05; done'"


@pytest.fixture
def begun(tmp_path: Path) -> Iterator[Callable[[CommandLine], Command]]:
    """Runs a command line, and waits until the script is at work."""
    guard = Guard()

    def begin(line: CommandLine) -> Command:
        command = Command(line, folder=tmp_path, output=tmp_path / "output", guard=guard)
        wait_for((tmp_path / "ready").exists, 30, "a container")
        return command

    yield begin
    guard.close()


def test_a_script_hears_that_it_is_stopped(engine: StandIn, line: Any, begun: Any, tmp_path: Path) -> None:
    command = begun(line(waiting(tmp_path, f"touch {tmp_path}/tidied; exit 3")))
    assert len(engine.running()) == 1
    command.end(20.0)
    assert (tmp_path / "tidied").exists()
    assert command.code == 3
    assert engine.running() == []


def test_one_that_does_not_obey_is_killed(engine: StandIn, line: Any, begun: Any, tmp_path: Path) -> None:
    command = begun(line(waiting(tmp_path, "")))
    (process,) = engine.running()
    command.end(0.3)
    assert not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    assert engine.running() == []


DRIVER = """
import json, sys, time
sys.path[:] = json.loads(sys.argv[1])
from pathlib import Path
from mlflow_hpo.command_line import CommandLine
from mlflow_hpo.launchers.processes import Command, Guard
line = CommandLine(**json.loads(sys.argv[2]))
command = Command(line, folder=Path.cwd(), output=Path("output"), guard=Guard())
time.sleep(600)
"""


def test_no_container_outlives_a_driver_that_is_killed(engine: StandIn, line: Any, tmp_path: Path) -> None:
    made = dataclasses.asdict(line(waiting(tmp_path, "")))
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, json.dumps(sys.path), json.dumps(made)], cwd=tmp_path
    )
    try:
        wait_for((tmp_path / "ready").exists, 30, "a container")
        (client,) = engine.state.glob("containers/*/client")
        os.killpg(os.getpgid(int(client.read_text())), signal.SIGKILL)
        assert len(engine.running()) == 1, "of its client it is independent"
    finally:
        driver.kill()
        driver.wait()
    wait_for(lambda: engine.running() == [], 30, "the end of the container")


def run(project: Path, **options: Any) -> None:
    """Call the backend as MLflow does."""
    config = {**KEYS, "ENV_MANAGER": None, "build_image": False, **options}
    HpoBackend().run(str(project), "main", {}, None, config, "", "0")


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # MLflow's, of what it packs
@pytest.mark.parametrize(
    ("docker_env", "options", "message"),
    [
        (
            {"image": "unknown:1"},
            {},
            "docker_env.image: 'unknown:1' is not on this machine and cannot be pulled (a private registry "
            "wants `docker login` first): docker pull says: Error response from daemon: pull access denied "
            "for unknown:1",
        ),
        (
            {"image": "unknown"},
            {"build_image": True},
            "docker_env: cannot build the image 'x' from 'unknown': docker build says: ERROR: failed to "
            "solve: unknown: pull access denied",
        ),
        (
            {"environment": ["NO_SUCH_VARIABLE"]},
            {},
            "docker_env.environment: names NO_SUCH_VARIABLE, which is not set here; export it",
        ),
        (
            {"environment": [["A", "1\n2"]]},
            {},
            "docker_env.environment: must hold names, or pairs of a name and a value in one line, got ['A', ",
        ),
        ({}, {"DOCKER_ARGS": {"name": "mine"}}, "docker-args: 'name' must not be given: the search runs the"),
        (
            {},
            {"docker_auth": {"username": "me"}},
            "docker_auth: is not taken by a search: `docker login` before",
        ),
    ],
)
def test_what_is_wrong_is_told_before_anything_runs(
    engine: StandIn, store: MlflowClient, tmp_path: Path, docker_env: Any, options: Any, message: str
) -> None:
    project = write_project(tmp_path / "project", **docker_env)
    with pytest.raises(ExecutionException) as told:
        run(project, **options)
    assert str(told.value).startswith(message)
    assert list(store.search_runs(["0"])) == []
    assert engine.calls("run") == []


def test_a_project_without_a_name_is_told(engine: StandIn, store: MlflowClient, tmp_path: Path) -> None:
    project = write_project(tmp_path / "project")
    spec = project / "MLproject"
    spec.write_text(spec.read_text().replace("name: x\n", ""))
    with pytest.raises(ExecutionException, match=r"^docker_env: Project name in MLProject must be specified"):
        run(project)


def test_an_engine_that_does_not_answer_is_told(
    engine: StandIn, store: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = write_project(tmp_path / "project")
    (engine.state / "dead").touch()
    with pytest.raises(
        ExecutionException, match=r"^docker_env: needs a Docker engine .*Cannot connect to the D"
    ):
        run(project)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        ExecutionException, match=r"^docker_env: needs a Docker engine .*Could not find Docker"
    ):
        run(project)
    assert list(store.search_runs(["0"])) == []
