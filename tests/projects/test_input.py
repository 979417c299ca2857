"""What is wrong in the input is told in one line, before anything is launched."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow.exceptions import ExecutionException
from mlflow.tracking import MlflowClient

from mlflow_hpo.plugin import HpoBackend

ALPHA = {"type": "float", "low": 0.0001, "high": 1.0, "log": True}
KEYS: dict[str, Any] = {
    "metric": {"name": "val_accuracy", "mode": "max"},
    "space": {"alpha": ALPHA},
    "max_resource": 3,
    "trials": 1,
}
OF_MLFLOW = {
    **dict.fromkeys(("ENV_MANAGER", "DOCKER_ARGS", "STORAGE_DIR", "docker_auth")),
    "SYNCHRONOUS": False,
    "build_image": False,
}


def run(
    uri: str | Path, keys: Any = KEYS, *, entry_point: str = "main", manager: str = "local", **fixed: str
) -> None:
    """Call the backend as MLflow does."""
    config = {**OF_MLFLOW, **keys, "ENV_MANAGER": manager}
    HpoBackend().run(str(uri), entry_point, fixed, None, config, "", "0")


def with_space(**parameters: Any) -> dict[str, Any]:
    return {**KEYS, "space": {"alpha": ALPHA, **parameters}}


@pytest.mark.parametrize(
    ("keys", "fixed", "message"),
    [
        ({}, {}, "backend-config: must hold the keys of the search"),
        ({**KEYS, "metrics": "x"}, {}, "metrics: is not a known field; did you mean metric?"),
        ({**KEYS, "launcher": "local"}, {}, "launcher: must be project for --backend hpo, got 'local'"),
        ({**KEYS, "resume": 7}, {}, "resume: must be the id of a study's parent run, got 7"),
        ({**KEYS, "resume": "nosuchrun"}, {}, "resume: no such run"),
        ({**KEYS, "take_over": "yes"}, {}, "take_over: must be true or false, got 'yes'"),
        (
            {**KEYS, "project": {"polling": 1}},
            {},
            "project.polling: is not a known field; did you mean poll_interval?",
        ),
        ({**KEYS, "project": {"poll_interval": 0}}, {}, "project.poll_interval: "),
        (
            {**KEYS, "project": {"checkpoint_parameter": "loss"}},
            {},
            "project.checkpoint_parameter: needs resource_parameter beside it",
        ),
        (
            {**KEYS, "project": {"resource_parameter": "epoch"}},
            {},
            "project.resource_parameter: 'epoch' is no parameter of the entry point 'main' "
            "(allowed: alpha, eta0, loss, epochs, fail_above); did you mean 'epochs'?",
        ),
        (
            {**KEYS, "project": {"resource_parameter": "epochs"}},
            {"epochs": "3"},
            "project.resource_parameter: 'epochs' must not be in -P too: the search sets it",
        ),
        (
            with_space(eta={"type": "float", "low": 0, "high": 1}),
            {},
            "space.eta: 'eta' is no parameter of the entry point 'main'",
        ),
        (KEYS, {"alpha": "1"}, "space.alpha: is fixed by -P alpha=1 too; give it once"),
        (
            {**KEYS, "space": {"eta0": ALPHA}},
            {},
            "space: lacks alpha, which the entry point 'main' requires; put it there, or fix it with -P "
            "alpha=VALUE",
        ),
        (
            with_space(eta0={"type": "categorical", "choices": [1, "fast"]}),
            {},
            "space.eta0.choices: must be numbers, as MLproject declares a float; got 'fast'",
        ),
        (
            {
                **KEYS,
                "space": {
                    "loss": {"type": "categorical", "choices": ["hinge", "log_loss"]},
                    "alpha": {**ALPHA, "when": {"loss": "hinge"}},
                },
            },
            {},
            "space.alpha: is not always active (when), and MLproject gives it no default for then",
        ),
    ],
)
def test_of_the_search(
    store: MlflowClient, foreign: Callable[[str], Path], keys: Any, fixed: dict[str, str], message: str
) -> None:
    with pytest.raises(ExecutionException) as told:
        run(foreign("sgd"), keys, **fixed)
    assert str(told.value).startswith(message)
    assert list(store.search_runs(["0"])) == []


@pytest.mark.parametrize(
    ("parameter", "kind", "message"),
    [
        (ALPHA, "path", "space.x.type: must be categorical, as MLproject declares a path; got float"),
        (
            {"type": "categorical", "choices": ["no/such/file"]},
            "path",
            "space.x.choices: must each be an existing path or a URI, as MLproject declares a path; got "
            "'no/such/file'",
        ),
        (
            {"type": "categorical", "choices": ["file.csv"]},
            "uri",
            "space.x.choices: must each be a URI, as MLproject declares a uri; got 'file.csv'",
        ),
        ({"type": "categorical", "choices": [True, False]}, "float", "space.x.choices: must be numbers"),
    ],
)
def test_of_its_types(store: MlflowClient, tmp_path: Path, parameter: Any, kind: str, message: str) -> None:
    (tmp_path / "MLproject").write_text(
        f"entry_points:\n  main:\n    parameters: {{x: {kind}}}\n    command: 'echo {{x}}'\n"
    )
    with pytest.raises(ExecutionException) as told:
        run(tmp_path, {**KEYS, "space": {"x": parameter}})
    assert str(told.value).startswith(message)


def test_nothing_that_a_script_says_steers_the_terminal(store: MlflowClient, tmp_path: Path) -> None:
    script = "import sys; sys.exit(chr(27) + '[31mboom')"
    (tmp_path / "script.py").write_text(script)
    (tmp_path / "MLproject").write_text(
        "entry_points:\n  main:\n    parameters: {x: float}\n    command: 'python script.py {x}'\n"
    )
    with pytest.raises(ExecutionException, match=r"\\x1b\[31mboom"):
        run(tmp_path, {**KEYS, "space": {"x": ALPHA}, "trials": 1})


def test_of_the_project(store: MlflowClient, foreign: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(ExecutionException, match=r"^entry point: of .*sgd: Could not find train among"):
        run(foreign("sgd"), entry_point="train")
    with pytest.raises(ExecutionException, match=r"^uri: cannot fetch file:///no/such"):
        run("file:///no/such")
    (tmp_path / "MLproject").write_text("name: x\ndatabricks_spark_job: {python_file: x.py}\n")
    with pytest.raises(ExecutionException, match=r"has a databricks_spark_job, which only Databricks runs"):
        run(tmp_path)
    (tmp_path / "MLproject").write_text("name: x\nentry_points: {main: {command: 'python {script}'}}\n")
    with pytest.raises(
        ExecutionException, match=r"entry point: the command of 'main' uses \{script\}, which"
    ):
        run(tmp_path)
    (tmp_path / "MLproject").write_text("name: x\nentry_points: {main: {parameters: {alpha: float}}}\n")
    with pytest.raises(ExecutionException, match="entry point: 'main' of .* has no command"):
        run(tmp_path)


def test_of_the_environment(store: MlflowClient, foreign: Callable[[str], Path]) -> None:
    project = foreign("sgd")
    (project / "python_env.yaml").write_text("python: '3.11'\n")
    with pytest.raises(ExecutionException, match="^env-manager: must be local, virtualenv or uv"):
        run(project, manager="conda")


def test_passwords_of_uris_are_not_told(store: MlflowClient) -> None:
    with pytest.raises(ExecutionException) as told:
        run("http://me:secret@127.0.0.1:9/project.git")
    assert "127.0.0.1:9/project.git" in str(told.value)
    assert "secret" not in str(told.value)
