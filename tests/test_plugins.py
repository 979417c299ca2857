"""The example of a package with a searcher, a scheduler and a launcher of its own: installed and tested."""

import os
import subprocess
import sys

import pytest
from snippets import ROOT

PLUGIN = ROOT / "examples" / "plugin"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with the example package, built as a wheel and installed."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    for path in PLUGIN.rglob("*"):
        if path.suffix in (".py", ".toml"):
            copy = source / path.relative_to(PLUGIN)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    command = [
        "-m",
        "pip",
        "install",
        "-q",
        "--no-index",
        "--no-deps",
        "--no-build-isolation",
        "--target",
        target,
    ]
    subprocess.run([sys.executable, *command, source], check=True, capture_output=True)
    return target


def run(installed, *arguments):
    path = os.pathsep.join(filter(None, [str(installed), os.environ.get("PYTHONPATH")]))
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": path},
        cwd=installed,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def test_the_example_passes_its_own_tests(installed):
    done = run(installed, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(PLUGIN / "tests"))
    assert done.returncode == 0, done.stdout
    assert "passed" in done.stdout


def test_its_names_are_known_everywhere(installed, store):
    code = (
        "from mlflow_hpo import tune\n"
        "def train(trial):\n"
        "    for epoch in trial.epochs():\n"
        "        trial.report(epoch, loss=trial.params['x'] ** 2)\n"
        "space = {'x': {'type': 'float', 'low': -1.0, 'high': 1.0}}\n"
        "keys = {'searcher': 'evolution', 'scheduler': 'halfway', 'launcher': 'modest'}\n"
        "tune(train, space, metric='loss', mode='min', max_resource=4, trials=6, **keys)\n"
    )
    done = run(installed, "-c", code)
    assert done.returncode == 0, done.stdout
    [study] = [
        run
        for experiment in store.search_experiments()
        for run in store.search_runs([experiment.experiment_id], "tags.`hpo.kind` = 'study'")
    ]
    assert study.data.params["hpo.searcher"] == "evolution"
    assert study.data.params["hpo.scheduler"] == "halfway"
