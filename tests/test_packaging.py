"""What is shipped: wheel, source distribution, pins, entry points, public names."""

from __future__ import annotations

import configparser
import email
import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

import mlflow_hpo
from mlflow_hpo import cli
from mlflow_hpo.training import entry
from mlflow_hpo.training.hyperparameters import NAMES, Hyperparameters

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = yaml.safe_load((ROOT / "MLproject").read_text())
CONDA: dict[str, Any] = yaml.safe_load((ROOT / "conda.yaml").read_text())


def setup_cfg() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(ROOT / "setup.cfg")
    return parser


def requirements(text: str) -> dict[str, Requirement]:
    """Return the requirements of a text with one a line, by canonical name."""
    lines = [line.partition("#")[0].strip() for line in text.splitlines()]
    found = [Requirement(line) for line in lines if line and not line.startswith("%(")]
    return {canonicalize_name(requirement.name): requirement for requirement in found}


def pin(requirement: Requirement) -> str:
    """Return the one version that a requirement admits."""
    (specifier,) = requirement.specifier
    assert specifier.operator == "==", requirement
    return specifier.version


INSTALL = requirements(setup_cfg()["options"]["install_requires"])
EXTRAS = {name: requirements(text) for name, text in setup_cfg()["options.extras_require"].items()}
CONSTRAINTS = requirements((ROOT / "constraints.txt").read_text())
CONDA_PINS = requirements("\n".join(CONDA["dependencies"][-1]["pip"]))


def tracked(folder: str) -> set[str]:
    listed = subprocess.run(
        ["git", "ls-files", folder], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode != 0:
        pytest.skip(f"not a git checkout: {listed.stderr.strip()}")
    return {name for name in listed.stdout.splitlines() if (ROOT / name).exists()}


# --- wheel and source distribution


@pytest.fixture(scope="session")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source distribution, and the wheel that was built from it."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in tracked("."):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    done = subprocess.run(
        [sys.executable, "-m", "build", "--outdir", str(out), str(source)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return out


def test_wheel_holds_the_package_and_nothing_else(distributions: Path) -> None:
    (path,) = distributions.glob("*.whl")
    with zipfile.ZipFile(path) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
        assert names == tracked("mlflow_hpo")
        assert {"mlflow_hpo/py.typed", "mlflow_hpo/training/search.yaml"} <= names
        (metadata,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
        message = email.message_from_bytes(wheel.read(metadata))
        (commands,) = [name for name in wheel.namelist() if name.endswith("/entry_points.txt")]
        assert b"mlflow-hpo = mlflow_hpo.cli:main" in wheel.read(commands)
        assert b"hpo = mlflow_hpo.plugin:HpoBackend" in wheel.read(commands)
        assert any(name.endswith("/LICENSE") for name in wheel.namelist())
    needed = [Requirement(line) for line in message.get_all("Requires-Dist", [])]
    assert {canonicalize_name(each.name) for each in needed if each.marker is None} == set(INSTALL)
    assert message["License-Expression"] == "Apache-2.0"
    assert message["Requires-Python"] == ">=3.11"
    assert message.get_payload(), "the README is the long description"


def test_source_distribution_holds_what_the_wheel_is_built_of(distributions: Path) -> None:
    (path,) = distributions.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"setup.cfg", "pyproject.toml", "README.md", "LICENSE"} | tracked("mlflow_hpo") <= names


@pytest.mark.parametrize(
    ("tool", "files"), [(("twine", "check", "--strict"), "*"), (("check_wheel_contents",), "*.whl")]
)
def test_package_indexes_would_take_them(distributions: Path, tool: tuple[str, ...], files: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *tool, *map(str, distributions.glob(files))],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_what_is_tested_is_what_is_installed() -> None:
    distribution = importlib.metadata.distribution("mlflow-hpo")
    origin = json.loads(distribution.read_text("direct_url.json") or "{}")
    if origin.get("dir_info", {}).get("editable"):
        pytest.skip("mlflow-hpo is installed in editable mode, not from a wheel")
    package = Path(str(distribution.locate_file("mlflow_hpo")))
    assert Path(mlflow_hpo.__file__).parent == package
    for name in tracked("mlflow_hpo"):
        installed = package.parent / name
        assert installed.read_bytes() == (ROOT / name).read_bytes(), f"{name} was changed: install it again"


# --- pins


def test_conda_yaml_has_what_setup_cfg_asks_for() -> None:
    assert set(CONDA_PINS) == set(INSTALL) | set(EXTRAS["postgres"])
    assert CONDA_PINS["psycopg"].extras == EXTRAS["postgres"]["psycopg"].extras
    (python,) = [each for each in CONDA["dependencies"] if str(each).startswith("python=")]
    assert python.partition("=")[2] in SpecifierSet(setup_cfg()["options"]["python_requires"])


@pytest.mark.parametrize("name", sorted(CONDA_PINS))
def test_conda_yaml_pins_what_constraints_pin(name: str) -> None:
    assert pin(CONDA_PINS[name]) == pin(CONSTRAINTS[name])


def test_constraints_lie_in_the_ranges_of_setup_cfg() -> None:
    for name, requirement in {**INSTALL, **EXTRAS["postgres"], **EXTRAS["test"]}.items():
        assert Version(pin(CONSTRAINTS[name])) in requirement.specifier, requirement


def test_constraints_pin_every_dependency() -> None:
    def needed(name: str, extras: frozenset[str]) -> Iterator[tuple[str, frozenset[str]]]:
        for line in importlib.metadata.requires(name) or []:
            requirement = Requirement(line)
            if requirement.marker is None or any(
                requirement.marker.evaluate({"extra": extra}) for extra in (extras or {""}) | {""}
            ):
                yield canonicalize_name(requirement.name), frozenset(requirement.extras)

    seen: set[tuple[str, frozenset[str]]] = set()
    waiting = [("mlflow-hpo", frozenset({"test"}))]
    while waiting:
        package = waiting.pop()
        if package not in seen:
            seen.add(package)
            if package[0] != "torch":  # what it brings differs from build to build
                waiting += needed(*package)
    installers = {"mlflow-hpo", "pip", "setuptools"}
    assert {name for name, _ in seen} - installers - set(CONSTRAINTS) == set()


# --- entry points


def options(command: click.Command) -> dict[str, click.Option]:
    """Return the options of a command that take a value: flag -> option."""
    found = [option for option in command.params if isinstance(option, click.Option) and not option.is_flag]
    return {option.opts[0]: option for option in found}


def flags(entry_point: str) -> dict[str, str]:
    """Return flag -> parameter, as the entry point's command line has them."""
    command: str = PROJECT["entry_points"][entry_point]["command"]
    return dict(re.findall(r"(--[\w-]+) \{(\w+)\}", command))


@pytest.mark.parametrize(
    ("entry_point", "start", "command", "own"),
    [
        # an experiment and a run's name are flags of `mlflow run` itself
        ("main", "python -m mlflow_hpo run ", cli.run, {"--experiment", "--name"}),
        ("train", "python -m mlflow_hpo.training.entry ", entry.main, set()),
    ],
)
def test_mlproject_agrees_with_the_command_line(
    entry_point: str, start: str, command: click.Command, own: set[str]
) -> None:
    definition: Mapping[str, Any] = PROJECT["entry_points"][entry_point]
    assert definition["command"].startswith(start)
    handed_over = flags(entry_point)
    assert set(handed_over) == set(options(command)) - own
    assert sorted(handed_over.values()) == sorted(definition["parameters"])
    assert all(flag == f"--{name.replace('_', '-')}" for flag, name in handed_over.items())


def test_a_parameter_that_is_not_given_changes_nothing() -> None:
    main = PROJECT["entry_points"]["main"]["parameters"]
    assert {parameter["default"] for parameter in main.values()} == {""}
    train = PROJECT["entry_points"]["train"]["parameters"]
    defaults = Hyperparameters()
    assert {name: train[name]["default"] for name in NAMES} == {
        name: getattr(defaults, name) for name in NAMES
    }


# --- names


def test_public_names() -> None:
    assert set(mlflow_hpo.__all__) == {
        *("SearchSpace", "Optimizer", "Job", "Decision", "BestTrial"),
        *("History", "Study", "Trial", "TrialStopped", "tune"),
        *("HpoError", "ConfigError", "StudyError"),
    }
    for name in mlflow_hpo.__all__:
        assert getattr(mlflow_hpo, name).__name__ == name
