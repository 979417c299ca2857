"""One training with given hyperparameters, as an ordinary MLflow entry point.

``python -m mlflow_hpo.training.entry --learning-rate 0.01 --epochs 10`` logs params, metrics by epoch, the
final checkpoint and the model to the run that ``mlflow run`` began, or to a new one.
"""

from __future__ import annotations

import math
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

import click

from mlflow_hpo.checks import shown
from mlflow_hpo.errors import ConfigError
from mlflow_hpo.training.bundled import BundledTraining
from mlflow_hpo.training.hyperparameters import NAMES, Hyperparameters
from mlflow_hpo.trial import Trial

_DEFAULTS = Hyperparameters()


class _RunChannel:
    """Brings the reports to the active MLflow run, and keeps the newest checkpoint in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.checkpoint = folder / "checkpoint.pt"

    def report(self, epoch: int, metrics: Mapping[str, float]) -> bool:
        import mlflow

        mlflow.log_metrics(dict(metrics), step=epoch)
        shown = "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        click.echo(f"epoch {epoch}  {shown}")
        return True

    def save(self, epoch: int, path: Path) -> None:
        shutil.copyfile(path, self.checkpoint)

    def load(self) -> tuple[int, Path] | None:
        return None


def _hyperparameter_options(command: Callable[..., None]) -> Callable[..., None]:
    for name in reversed(NAMES):
        default = getattr(_DEFAULTS, name)
        option = click.option(f"--{name.replace('_', '-')}", default="", help=f"default {default}")
        command = option(command)
    return command


@click.command(help=__doc__, context_settings={"show_default": False})
@click.option("--data", default="", help="digits (default), another bundled set, a path or an s3:// URL")
@click.option("--target", default="", help="target column of a table")
@click.option("--epochs", default="", help="default 10; also the horizon of the schedule")
@click.option("--seed", default="", help="of the split and the training; default 0")
@click.option("--device", default="", help="cpu or cuda:N; default the first GPU, else cpu")
@click.option("--bf16", default="", is_flag=False, flag_value="true", help="mixed precision: true or false")
@click.option("--compile", "compiled", default="", is_flag=False, flag_value="true", help="torch.compile")
@click.option("--register", default="", help="also register the model under this name")
@click.option("--debug", is_flag=True, help="show the traceback of an error")
@_hyperparameter_options
def main(debug: bool, **given: str) -> None:
    """Train; exit with 2 for bad input and 1 for a failure at run time, each told in one line."""
    try:
        _train(given)
    except ConfigError as error:
        _fail(error, 2, debug)
    except Exception as error:  # noqa: BLE001 - whatever it is, the user gets one line and the run is FAILED
        _fail(error, 1, debug)


def _fail(error: Exception, code: int, debug: bool) -> None:
    if debug:
        raise error
    text = str(error).strip() or type(error).__name__
    click.echo(f"error: {text.splitlines()[0]}", err=True)
    sys.exit(code)


def _train(given: Mapping[str, str]) -> None:
    # MLproject passes an empty text for what the user left out.
    options = {name: text for name, text in given.items() if text != ""}
    params = asdict(Hyperparameters.parse({n: _value(n, options[n]) for n in NAMES if n in options}))
    epochs = _whole("epochs", options.get("epochs", "10"), 1)
    seed = _whole("seed", options.get("seed", "0"), 0)
    training = BundledTraining(
        options.get("data", "digits"),
        options.get("target"),
        seed=seed,
        max_epochs=epochs,
        bf16=_truth("bf16", options.get("bf16", "false")),
        compiled=_truth("compile", options.get("compiled", "false")),
    )
    device = _device(options.get("device"))
    training.prepare()
    import mlflow  # after the input is known to be good: a mistake is told at once, and no run is begun

    with (
        mlflow.start_run() as run,
        tempfile.TemporaryDirectory(prefix="mlflow-hpo-entry-") as folder,
    ):
        facts = training.describe()
        mlflow.set_tags({name: value for name, value in facts.items() if name.startswith("data.")})
        settings = {**params, "data": training.data, "epochs": epochs, "seed": seed, "device": device}
        # `mlflow run` has already logged what the user gave, and params cannot be changed.
        mlflow.log_params({name: value for name, value in settings.items() if name not in run.data.params})
        mlflow.log_dict(settings, "training.json")
        channel = _RunChannel(Path(folder))
        training(Trial(params, stop=epochs, seed=seed, device=device, channel=channel))
        mlflow.log_artifact(str(channel.checkpoint), "checkpoints")
        training.log_model(channel.checkpoint, params, registered_model_name=options.get("register"))


def _value(name: str, text: str) -> str | int | float:
    default = getattr(_DEFAULTS, name)
    if isinstance(default, str):
        return text
    try:
        number = float(text)
    except ValueError:
        raise ConfigError(name, f"must be a number, got {shown(text)}") from None
    if not math.isfinite(number):
        raise ConfigError(name, f"must be a finite number, got {shown(text)}")
    return number


def _whole(field: str, text: str, least: int) -> int:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not (number.is_integer() and number >= least):
        raise ConfigError(field, f"must be a whole number of {least} or more, got {shown(text)}")
    return int(number)


def _truth(field: str, text: str) -> bool:
    if text.lower() not in ("true", "false", "1", "0"):
        raise ConfigError(field, f"must be true or false, got {shown(text)}")
    return text.lower() in ("true", "1")


def _device(text: str | None) -> str:
    import torch

    count = torch.cuda.device_count()
    if text is None:
        return "cuda:0" if count else "cpu"
    allowed = ["cpu", *(f"cuda:{index}" for index in range(count))]
    if text not in allowed:
        raise ConfigError("device", f"must be one of {', '.join(allowed)} on this machine, got {shown(text)}")
    return text


if __name__ == "__main__":
    main()
