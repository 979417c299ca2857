"""The environment of a project is made before the first trial, by MLflow's own means."""

from __future__ import annotations

import platform
import shutil
import subprocess
from pathlib import Path

import pytest
from mlflow.projects._project_spec import load_project

from mlflow_hpo.errors import ConfigError
from mlflow_hpo.projects.environment import activation

MLPROJECT = "name: x\npython_env: python_env.yaml\nentry_points: {main: {command: python -V}}\n"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MLFLOW_ENV_ROOT", str(tmp_path / "environments"))
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "MLproject").write_text(MLPROJECT)
    return folder


@pytest.mark.skipif(shutil.which("uv") is None, reason="uv is not installed")
def test_uv_makes_it_once(project: Path) -> None:
    nothing = "build_dependencies: []\ndependencies: []\n"
    (project / "python_env.yaml").write_text(f"python: '{platform.python_version()}'\n{nothing}")
    [enter] = activation(load_project(str(project)), project, "uv")
    asked = subprocess.run(
        ["bash", "-c", f"{enter} && python -c 'import sys; print(sys.prefix)'"],
        capture_output=True,
        text=True,
        check=True,
    )
    made = project.parent / "environments"
    assert asked.stdout.strip().startswith(str(made))
    (python,) = made.glob("*/bin/python")
    before = python.lstat().st_mtime_ns
    assert activation(load_project(str(project)), project, "uv") == [enter]
    assert python.lstat().st_mtime_ns == before


def test_local_takes_the_present_one(project: Path) -> None:
    (project / "python_env.yaml").write_text("dependencies: [no-such-package]\n")
    assert activation(load_project(str(project)), project, "local") == []


@pytest.mark.skipif(shutil.which("uv") is None, reason="uv is not installed")
def test_one_that_cannot_be_made_is_told(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_OFFLINE", "1")
    (project / "python_env.yaml").write_text(
        f"python: '{platform.python_version()}'\nbuild_dependencies: []\n"
        "dependencies: [no-such-package-at-all]\n"
    )
    with pytest.raises(
        ConfigError, match="env-manager: uv cannot make the project's environment: .*local takes"
    ):
        activation(load_project(str(project)), project, "uv")
    with pytest.raises(
        ConfigError, match="env-manager: must be one of local, virtualenv, uv, conda, got 'nix'"
    ):
        activation(load_project(str(project)), project, "nix")
