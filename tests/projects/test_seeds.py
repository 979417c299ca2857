"""Scripts of projects get the seed of their trial, where they take one."""

from pathlib import Path

import pytest

from mlflow_hpo import ConfigError
from mlflow_hpo.config import StudyConfig
from mlflow_hpo.projects.environment import ActivatedEnvironment
from mlflow_hpo.projects.fetching import fetched
from mlflow_hpo.projects.project import SearchedProject

X = {"x": {"type": "float", "low": 0.0, "high": 1.0}}
COMMAND = "python train.py {x} {seed} {other}"


def made(folder, given=None, space=X, **keys):
    study = {"metric": "loss", "mode": "min", "max_resource": 3, "launcher": "project"}
    config = StudyConfig.parse({**study, "space": space, "project": keys})
    with fetched(str(folder), None, "main") as project:
        here = ActivatedEnvironment(project.spec, project.folder, "local")
        searched = SearchedProject(project, config, given or {}, environment=here, scratch=folder)
        searched.check_params(config.space)
        searched.prepare()
        params = dict.fromkeys(space, 0.5)
        paths = {"checkpoint": Path("c"), "downloads": folder}
        return searched.command(params, 3, seed=4_000_000_000, **paths, env={}).arguments[-1]


@pytest.fixture
def project(tmp_path):
    def write(seed="{type: float, default: 1}"):
        declared = f"{{x: float, seed: {seed}, other: {{type: string, default: none}}}}"
        (tmp_path / "MLproject").write_text(
            f"name: x\nentry_points: {{main: {{parameters: {declared}, command: '{COMMAND}'}}}}\n"
        )
        return tmp_path

    return write


def test_a_declared_parameter_called_seed_takes_it(project):
    assert made(project()) == "python train.py 0.5 4000000000 none"
    assert made(project("float")) == "python train.py 0.5 4000000000 none", "it need not have a default"


def test_what_is_given_otherwise_stays(project):
    assert made(project(), {"seed": "7"}) == "python train.py 0.5 7 none"
    assert made(project(), space={**X, "seed": X["x"]}) == "python train.py 0.5 0.5 none"


def test_another_parameter_may_be_named(project):
    assert made(project(), seed_parameter="other") == "python train.py 0.5 1 4000000000"
    with pytest.raises(ConfigError, match=r"project.seed_parameter: 'sed' is no parameter .* mean 'seed'"):
        made(project(), seed_parameter="sed")
    with pytest.raises(ConfigError, match=r"project.seed_parameter: 'seed' must not be in -P too"):
        made(project(), {"seed": "7"}, seed_parameter="seed")
