"""Every fenced block of the README and the guide does what it says, or tells why it is not run."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from snippets import ALL, ROOT, Snippet
from workshop import Workshop

from mlflow_hpo import Study, cli
from mlflow_hpo.config import StudyConfig
from mlflow_hpo.importing.sweeps import from_sweep, is_sweep
from mlflow_hpo.preparation import make_optimizer

LANGUAGES = {"python", "bash", "yaml", "json", "toml", "text"}
SMALLER = [  # what a newcomer means to take a while
    (r"\s+#.*", ""),
    (r"(trials[= ])\d+", r"\g<1>2"),
    (r"(workers[= ])\d+", r"\g<1>1"),
    (r"(epochs[= ])\d+", r"\g<1>1"),
    (r"^(mlflow run (?!.*--env-manager).*)", r"\1 --env-manager local"),
    (r"^(mlflow run \.(?!.* -e )(?!.*resume)(?!.*trials=).*)", r"\1 -P trials=2 -P workers=1"),
    (r"^(mlflow run \.(?!.* -e )(?!.*resume).*)", r"\1 -P max_epochs=1"),
    (r"^(mlflow-hpo run(?!.*--config)(?!.*--trials).*)", r"\1 --trials 2"),
    (r"^(mlflow-hpo run(?!.*--config).*)", r"\1 --max-epochs 1"),
]
NOT_KEYS = {"config", "resume", "take_over", "plain", "debug"}  # flags that are no keys of search.yaml
COMPLETE: dict[str, Any] = {  # with what the keys of one block stand for themselves
    "metric": {"name": "val_accuracy", "mode": "max"},
    "space": {
        "learning_rate": {"type": "float", "low": 1e-4, "high": 1e-1, "log": True},
        "batch_size": {"type": "int", "low": 16, "high": 256, "log": True},
    },
    "max_resource": 27,
}


def of(*languages: str) -> list[Any]:
    """Return the blocks in these languages as parameters of a test; those that are not run are skipped."""
    return [
        pytest.param(each, id=str(each), marks=[pytest.mark.skip(each.not_run)] if each.not_run else [])
        for each in ALL
        if each.language in languages
    ]


@pytest.mark.parametrize("snippet", of("python"))
def test_python_runs(snippet: Snippet, workshop: Workshop, tmp_path: Path) -> None:
    small = re.sub(r"workers=\d+", "workers=1", re.sub(r"trials=\d+", "trials=3", snippet.text))
    (tmp_path / "example.py").write_text(with_ids(small, workshop))
    done = Workshop(tmp_path, workshop.environment).run("python example.py")
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("snippet", of("bash"))
def test_commands_run(snippet: Snippet, workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    new = []
    for line in made_small(snippet.text, workshop).splitlines():
        if (kind := re.match(r"(mlflow-hpo run|mlflow run \.(?!.* -e )(?!.*resume=)) ", f"{line} ")) is None:
            known = line in workshop.done  # what several pages show is run once
        elif (
            known := kind[1] in workshop.done
        ):  # the bundled training is searched once in each of the two ways
            check_search(line, workshop, monkeypatch)
        else:
            workshop.done.add(kind[1])
        if not known:
            new.append(line)
    done = workshop.run("\n".join(new))
    assert done.returncode == 0, done.stdout
    workshop.done.update(line for line in new if line.startswith("mlflow"))


def made_small(script: str, workshop: Workshop) -> str:
    """Return a script of the guide for the workshop: with its runs and its store, and done in seconds."""
    script = re.sub(r"\\\n\s*", "", script)
    for pattern, small in SMALLER:
        script = re.sub(pattern, small, script, flags=re.MULTILINE)
    if "--backend hpo" in script and "RUN_ID" in script:
        script = script.replace("RUN_ID", workshop.study_of_project())
    if "OTHER_RUN_ID" in script:
        script = script.replace("OTHER_RUN_ID", workshop.study_of_project())
    return with_ids(script, workshop)


def with_ids(text: str, workshop: Workshop) -> str:
    """Return a text of the guide with the runs and the store of the workshop."""
    text = text.replace("TRIAL_RUN_ID", workshop.trial_run_id)
    text = re.sub(r"RUN_ID\b|\b3f0e7c2b[0-9a-f]{24}\b", workshop.run_id, text)
    return text.replace("http://mlflow.example:5000", workshop.environment["MLFLOW_TRACKING_URI"])


def check_search(line: str, workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the study of a command as it does, which checks everything, and leave it at that."""
    arguments = shlex.split(line)[2:]
    if line.startswith("mlflow run"):
        entry_point = yaml.safe_load((ROOT / "MLproject").read_text())["entry_points"]["main"]
        given = dict(arguments[at + 1].split("=", 1) for at, flag in enumerate(arguments) if flag == "-P")
        assert set(given) <= set(entry_point["parameters"])
        arguments = [part for name, value in given.items() for part in (f"--{name.replace('_', '-')}", value)]
    context = cli.run.make_context("run", arguments)
    with monkeypatch.context() as patched:
        patched.chdir(workshop.folder)
        for name in ("MLFLOW_TRACKING_URI", "MLFLOW_HPO_CACHE", "MLFLOW_HPO_SPOOL"):
            patched.setenv(name, workshop.environment[name])
        flags = {name: context.params[name] for name in context.params if name not in NOT_KEYS}
        train, keys = cli.bundled_study(context.params["config"], flags)
        Study(train, **keys)


@pytest.mark.parametrize("snippet", of("yaml", "json"))
def test_settings_are_those_of_a_study(snippet: Snippet) -> None:
    keys = json.loads(snippet.text) if snippet.language == "json" else yaml.load(snippet.text, Strict)
    if is_sweep(keys):
        keys = from_sweep(keys).keys
    if "project" in keys or snippet.page.stem == "projects":
        keys["launcher"] = "project"
    make_optimizer(StudyConfig.parse(COMPLETE | keys))


@pytest.mark.parametrize("snippet", of("toml"))
def test_toml_is_well_formed(snippet: Snippet) -> None:
    assert tomllib.loads(snippet.text)


class Strict(yaml.SafeLoader):
    """PyYAML's safe loader, which takes no key twice."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """Return the mapping."""
        keys = [self.construct_object(key) for key, _ in node.value]
        assert len(keys) == len(set(keys)), f"a key stands twice among {keys}"
        return super().construct_mapping(node, deep)


def test_every_block_says_what_it_is() -> None:
    for each in ALL:
        if each.page.stem != "benchmarks":
            assert each.language in LANGUAGES, f"{each.page}:{each.line}: {each.language!r}"
        if each.language == "python":
            compile(each.text, str(each), "exec")


def test_the_commands_behind_the_figures_exist() -> None:
    """They take hours; but the scripts are there, with the options that are given."""
    for each in ALL:
        if each.page.stem == "benchmarks" and not each.language:
            for command in each.text.splitlines():
                for script in re.findall(r"benchmarks/[\w/]+\.(?:py|txt)", command):
                    assert (ROOT / script).exists(), f"{each.line}: {script}"
