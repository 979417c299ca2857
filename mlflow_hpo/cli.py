"""The command `mlflow-hpo`."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Callable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlflow_hpo.commands.common import RUNTIME, echo, reported
from mlflow_hpo.commands.doctor import doctor
from mlflow_hpo.commands.importing import import_command
from mlflow_hpo.commands.pruning import prune
from mlflow_hpo.commands.reading import best, compare, export, list_command, show
from mlflow_hpo.commands.replaying import replay
from mlflow_hpo.commands.report import report
from mlflow_hpo.commands.watching import watch
from mlflow_hpo.errors import ConfigError

if TYPE_CHECKING:
    from mlflow_hpo.metalearning.warm_start import WarmStart
    from mlflow_hpo.recording import Recording


class OptionalInt(click.ParamType[int | None]):
    """A whole number, or nothing at all: MLproject hands over '' for what was not given."""

    name = "integer"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | None:
        """Return the number, or None for ''."""
        if value == "":
            return None
        return click.INT.convert(value, param, ctx)


INTEGER = OptionalInt()


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="mlflow-hpo")
def main() -> None:
    """Hyperparameter search on the MLflow that a team already has.

    Everything is read from and written to the MLflow that MLFLOW_TRACKING_URI names (default:
    sqlite:///mlflow.db in this folder).

    Exit codes: 0 success, 1 failure at run time, 2 wrong usage or configuration, 130 interrupted.
    """


def _search(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of a command that searches."""
    options = [
        click.option(
            "--config",
            default="",
            metavar="FILE",
            help="A search.yaml, or the same as JSON. Default: the bundled one.",
        ),
        click.option(
            "--data",
            default="",
            help="digits, breast_cancer, wine, diabetes, or a .csv, .parquet or .npz path or s3:// URL.",
        ),
        click.option(
            "--target", default="", metavar="COLUMN", help="The column to predict, where the data is a table."
        ),
        click.option("--trials", default="", type=INTEGER, help="How many configurations to try."),
        click.option(
            "--max-epochs", default="", type=INTEGER, help="Epochs of a full training (max_resource)."
        ),
        click.option(
            "--searcher",
            default="",
            help="Who proposes configurations: auto, random, sobol, grid, tpe, gp, optuna, freeze_thaw.",
        ),
        click.option(
            "--scheduler",
            default="",
            help="Who gets how many epochs: auto, full, successive_halving, hyperband, asha, asha_stopping, "
            "median, freeze_thaw.",
        ),
        click.option("--launcher", default="", help="Where trials run: auto, local, packed, ray."),
        click.option("--workers", default="", type=INTEGER, help="Trials that run at a time."),
        click.option("--seed", default="", type=INTEGER, help="Seed of the search."),
        click.option(
            "--warm-start",
            default="",
            metavar="EXPERIMENT,...",
            help="Begin with what earlier studies and runs in these experiments taught, or in all of them: "
            "auto.",
        ),
        click.option("--experiment", default="", help="MLflow experiment, created if need be."),
        click.option("--name", default="", help="Name of the parent run."),
        click.option(
            "--register", default="", metavar="NAME", help="Register the best model under this name."
        ),
        click.option(
            "--take-over", is_flag=True, help="Resume it even if another driver may be at work on it."
        ),
        click.option(
            "--plain", is_flag=True, help="One line an event instead of the live view, also in a terminal."
        ),
        click.option("--debug", is_flag=True, help="Show tracebacks."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@main.command()
@click.option("--resume", default="", metavar="RUN_ID", help="Go on with this study, as `resume` does.")
@_search
def run(resume: str, **flags: Any) -> None:
    """Search the hyperparameters of the bundled PyTorch training.

    The search is described by a search.yaml; a flag overrides its key, one that is not given keeps the
    file's value.
    Every trial becomes a nested MLflow run, unpromising ones stop early, and the best model is logged at the
    end.
    """
    _searched(resume, **flags)


@main.command()
@click.argument("run_id")
@_search
def resume(run_id: str, **flags: Any) -> None:
    """Go on with the study that has the parent run RUN_ID, whatever ended it, from MLflow alone.

    Settings are as they were but where a flag says otherwise. With another searcher, scheduler, --max-epochs
    or --seed the trials so far are over, and a new search learns from them.
    """
    _searched(run_id, **flags)


def _searched(resume: str, *, config: str, take_over: bool, plain: bool, debug: bool, **flags: Any) -> None:
    with reported(debug):
        from rich.console import Console

        from mlflow_hpo.reports.live import LiveView, PlainView
        from mlflow_hpo.study import Study
        from mlflow_hpo.tracking.recovery import is_of_bundled_training, read_recording

        recording = read_recording(resume) if resume else None
        if recording is not None and recording.keys.get("launcher") == "project":
            raise ConfigError("resume", _resumed_as_project(recording))
        if recording is not None and not is_of_bundled_training(recording.run_id):
            raise ConfigError("resume", _resumed_in_python(recording))
        train, keys = bundled_study(config, flags, {} if recording is None else recording.keys)
        console = Console()
        view = PlainView(console) if plain or not console.is_terminal else LiveView(console)
        Study(train, listener=view, resume=recording, take_over=take_over, **keys).run()


def _resumed_as_project(recording: Recording) -> str:
    """Return what goes on with a study of an MLflow project."""
    from mlflow.utils.mlflow_tags import MLFLOW_GIT_COMMIT, MLFLOW_PROJECT_ENTRY_POINT, MLFLOW_SOURCE_NAME

    tags = recording.tags
    uri, entry_point = tags.get(MLFLOW_SOURCE_NAME, "URI"), tags.get(MLFLOW_PROJECT_ENTRY_POINT, "main")
    command = ["mlflow", "run", uri]
    if (commit := tags.get(MLFLOW_GIT_COMMIT)) and not os.path.exists(uri.partition("#")[0]):
        command += ["-v", commit]
    if entry_point != "main":
        command += ["-e", entry_point]
    command += ["--backend", "hpo", "--backend-config", json.dumps({"resume": recording.run_id})]
    return (
        f"{recording.run_id} is a study of an MLflow project: {tags.get('hpo.task', '')}; with the same -P "
        f"and --env-manager as before it goes on with: {shlex.join(command)}"
    )


def _resumed_in_python(recording: Recording) -> str:
    """Return what goes on with a study of a function."""
    task = recording.tags.get("hpo.task", "")
    return (
        f"{recording.run_id} is a study of the function {task!r:.200}, not of the bundled training; it goes "
        f"on in Python with: tune({task.rpartition('.')[2]:.100}, resume='{recording.run_id}')"
    )


@main.command()
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def sync(debug: bool) -> None:
    """Write what drivers on this machine had to keep on disk, as the tracking store was away.

    Studies that are at work do so by themselves, and `resume` does it for its study. Nothing is written
    twice.
    """
    with reported(debug):
        from mlflow_hpo.tracking.sync import sync as write_spools

        done = write_spools()
        for line in done.lines():
            echo(line)
        if done.refused:
            sys.exit(RUNTIME)


def _asked(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of a command that asks what earlier studies taught."""
    options = [
        click.option(
            "--config",
            default="",
            metavar="FILE",
            help="The search.yaml of the new study, or the same as JSON. Default: the bundled one.",
        ),
        click.option(
            "--data",
            default="",
            help="The data of a new study of the bundled training, as for run; leave it out for code of your "
            "own.",
        ),
        click.option(
            "--target", default="", metavar="COLUMN", help="The column to predict in the data of --data."
        ),
        click.option(
            "--history",
            default="",
            metavar="EXPERIMENT,...",
            help="Where to look; auto is all experiments. Default: what FILE says of warm_start, or auto.",
        ),
        click.option("--json", "as_json", is_flag=True, help="All of it as JSON."),
        click.option("--debug", is_flag=True, help="Show tracebacks."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@main.command()
@_asked
@click.option("--top", default=10, show_default=True, type=click.IntRange(1), help="So many at most.")
def suggest(config: str, data: str, target: str, history: str, as_json: bool, debug: bool, top: int) -> None:
    """Print the configurations that a new study would begin with, and where they come from.

    Nothing is trained and nothing is written.

    FILE may describe the search of a function, of an MLflow project (the file of --backend-config), or of the
    bundled training, which it is taken for where it names data, or no metric.
    """
    with reported(debug):
        from mlflow_hpo.reports.suggestions import suggestions

        known = _known(config, data, target, history)
        _told(known, suggestions(known, top), as_json=as_json)


@main.command()
@_asked
def history(config: str, data: str, target: str, history: str, as_json: bool, debug: bool) -> None:
    """Print the tasks that earlier studies and runs know, and how much each counts for a new study.

    FILE may describe the search of a function, of an MLflow project (the file of --backend-config), or of the
    bundled training, which it is taken for where it names data, or no metric.
    """
    with reported(debug):
        from mlflow_hpo.reports.suggestions import tasks

        known = _known(config, data, target, history)
        _told(known, tasks(known), as_json=as_json)


def _told(known: WarmStart, lines: list[str], *, as_json: bool) -> None:
    """Print what is known, as JSON or line by line."""
    if as_json:
        click.echo(known.to_json())
        return
    for line in lines:
        echo(line)


def _known(config: str, data: str, target: str, history: str) -> WarmStart:
    """Return what a study would begin with: one of the bundled training, or of the user's own code."""
    from mlflow_hpo.commands.own_code import own_keys
    from mlflow_hpo.config import StudyConfig, load_config
    from mlflow_hpo.preparation import describe, mined_warm_start

    facts: dict[str, str] = {}  # of code that is not at hand
    if config and not (data or target) and (own := own_keys(load_config(Path(config)))) is not None:
        settings = StudyConfig.parse(own | {"warm_start": history or own.get("warm_start") or "auto"})
    else:
        train, keys = bundled_study(config, {"data": data, "target": target, "warm_start": history})
        settings = StudyConfig.parse({**keys, "warm_start": keys.get("warm_start") or "auto"})
        facts = describe(train, settings)
    known = mined_warm_start(settings, facts)
    if known is None:
        raise ConfigError("history", "must name an experiment, or be auto")
    return known


def bundled_study(
    config: str, flags: Mapping[str, Any], recorded: Mapping[str, Any] | None = None
) -> tuple[Any, dict[str, Any]]:
    """Return the bundled training and the keys of its study.

    Args:
        config: path of a search.yaml; "" for the bundled one, or for the recorded keys.
        flags: flag -> value that overrides the file's key; None or "" where the flag was not given.
        recorded: the keys of a study that goes on.
    """
    from mlflow_hpo.checks import whole_number
    from mlflow_hpo.config import load_config
    from mlflow_hpo.training.bundled import BundledTraining

    path = Path(config) if config else Path(str(files("mlflow_hpo.training"))) / "search.yaml"
    keys = dict(recorded or {})
    if config or not recorded:
        keys |= load_config(path)
    given = {name: value for name, value in flags.items() if value not in (None, "")}
    if "max_epochs" in given:
        given["max_resource"] = given.pop("max_epochs")
    keys |= given
    train = BundledTraining(
        keys.get("data", "digits"),
        keys.get("target"),
        seed=keys.get("seed", 0),
        max_epochs=whole_number("max_resource", keys.get("max_resource", 1), at_least=1),
    )
    if "metric" not in keys:
        train.prepare()
        keys["metric"] = dict(zip(("name", "mode"), train.default_metric, strict=True))
    return train, keys


for command in (
    *(show, watch, list_command, best, compare, export, report),
    *(replay, prune, import_command, doctor),
):
    main.add_command(command)
