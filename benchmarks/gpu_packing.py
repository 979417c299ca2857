"""Trials per hour of whole ASHA studies of small models: alone, in processes, by Ray Tune, and packed.

All tools train with the same code, and track in MLflow in SQLite; each search has a process and a store of
its own. Without a GPU they divide the CPU cores.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from options import write_option
from report import markdown_table, publish

from mlflow_hpo.launchers.slots import visible_gpus
from mlflow_hpo.training.bundled import BundledTraining
from mlflow_hpo.trial import Trial

sys.path.append(str(Path(__file__).parent.parent / "tests"))
from processes import clean_environment

ETA = 3
GIVE_UP = 7200.0  # seconds for one search
ROWS, COLUMNS = 50_000, 28
RANGES = {"learning_rate": (1e-4, 1e-1), "weight_decay": (1e-6, 1e-2), "dropout": (1e-2, 0.5)}
CHOICES = {"optimizer": ["adam", "adamw"], "schedule": ["constant", "cosine", "onecycle"]}


@dataclass(frozen=True)
class Workload:
    """What is trained: a title, its data as a file of the search's folder, what is fixed, and how long."""

    title: str
    data: str
    fixed: Mapping[str, int]
    least: int
    most: int


WORKLOADS = {
    "mlp": Workload("digits, MLP of 2 x 32", "digits.npz", {"batch_size": 64}, 9, 81),
    "cnn": Workload("digits, CNN of 2 x 16", "digits", {"batch_size": 64, "width": 16}, 3, 27),
    "table": Workload(f"{ROWS:,} x {COLUMNS} table, MLP of 2 x 32", "table.npz", {"batch_size": 256}, 1, 9),
}
TITLES = {"alone": "one at a time", "processes": "processes", "ray": "Ray Tune", "packed": "packed"}


@dataclass(frozen=True)
class Found:
    """How a search went: seconds from the call to its return, epochs trained, best value, GPU use in %."""

    seconds: float
    epochs: int
    best: float
    used: float

    def per_hour(self, trials: int) -> float:
        """Return trials per hour."""
        return 3600 * trials / self.seconds


@click.group(invoke_without_command=True)
@click.pass_context
@click.option("--trials", default=200, show_default=True)
@click.option("--workloads", default=",".join(WORKLOADS), show_default=True)
@click.option("--tools", default=",".join(TITLES), show_default=True)
@click.option("--workers", default="2,4", show_default=True, help="Processes to try; the best counts.")
@click.option("--places", default=32, show_default=True, help="Trials at a time of the packed search.")
@click.option("--seeds", default=10, show_default=True, help="Of the comparison of best values; 0: none.")
@click.option("--few", default=40, show_default=True, help="Trials of each search of that comparison.")
@write_option
def main(
    context: click.Context,
    trials: int,
    workloads: str,
    tools: str,
    workers: str,
    places: int,
    seeds: int,
    few: int,
    write: bool,
) -> None:
    """Run the searches in turn, and compare."""
    if context.invoked_subcommand:
        return
    numbers = [int(number) for number in workers.split(",")]
    gpus = visible_gpus()
    there = f"{len(gpus)} GPUs" if gpus else "no GPU was to be had: on CPU cores"
    sections = [
        f"### Packed training\n\nTrials per hour of studies of {trials} trials (random search, stopping "
        f"ASHA, eta {ETA}), start-up and all tracking included; {there}. Of processes and Ray Tune the best "
        f"of {workers} at a time, packed {places} trials at a time.",
        _speeds([name for name in workloads.split(",") if name], tools.split(","), numbers, places, trials),
    ]
    if seeds:
        sections.append(_quality(seeds, few, places))
    publish("gpu-packing", "\n\n".join(sections), write=write)


def _speeds(
    workloads: Sequence[str], tools: Sequence[str], numbers: Sequence[int], places: int, trials: int
) -> str:
    rows, ratios = [], []
    for workload in workloads:
        found: dict[str, tuple[int, Found]] = {}
        for tool in tools:
            sizes = {"alone": [1], "packed": [places]}.get(tool, numbers)
            runs = [(size, _searched(tool, workload, size, trials, 0)) for size in sizes]
            found[tool] = min(runs, key=lambda run: run[1].seconds)
        for tool, (size, each) in found.items():
            used = "-" if np.isnan(each.used) else f"{each.used:.0f}"
            cells = [f"{each.per_hour(trials):,.0f}", f"{each.epochs}", f"{each.best:.4f}", used]
            rows.append([f"{_title(workload)}: {TITLES[tool]}", str(size), *cells])
        if "packed" in found and len(found) > 1:
            best = min(each.seconds for tool, (_, each) in found.items() if tool != "packed")
            ratios.append(f"{WORKLOADS[workload].title} {best / found['packed'][1].seconds:.1f}")
    head = ["search", "at a time", "trials an hour", "epochs", "best", "GPU busy, %"]
    table = markdown_table(head, rows)
    return f"{table}\n\nPacked over the best of the others: {', '.join(ratios)}." if ratios else table


def _title(workload: str) -> str:
    chosen = WORKLOADS[workload]
    return f"{chosen.title}, {chosen.least} to {chosen.most} epochs"


def _quality(seeds: int, trials: int, places: int) -> str:
    """Return whether packing changes what a search finds."""
    pairs = [
        [_searched(tool, "mlp", size, trials, seed).best for tool, size in (("alone", 1), ("packed", places))]
        for seed in range(seeds)
    ]
    alone, packed = (np.array(column) for column in zip(*pairs, strict=True))
    apart = packed - alone
    error = statistics.stdev(apart) / np.sqrt(seeds) if seeds > 1 else float("nan")
    rows = [
        [name, f"{each.mean():.4f}", f"{each.std(ddof=1):.4f}" if seeds > 1 else "-"]
        for name, each in (("one at a time", alone), ("packed", packed))
    ]
    return (
        f"Best validation accuracy on the digits (MLP, {trials} trials), over {seeds} seeds:\n\n"
        + markdown_table(["search", "mean", "standard deviation"], rows)
        + f"\n\nPacked less one at a time: {apart.mean():+.4f} ± {error:.4f} (standard error, by seed)."
    )


def _searched(tool: str, workload: str, size: int, trials: int, seed: int) -> Found:
    """Run a search in a process of its own."""
    with tempfile.TemporaryDirectory() as name, _gpu_use() as used:
        folder = Path(name)
        _write_data(WORKLOADS[workload].data, folder)
        env = clean_environment(
            MLFLOW_TRACKING_URI=f"sqlite:///{folder}/mlflow.db",
            MLFLOW_DISABLE_TELEMETRY="true",
            MLFLOW_HPO_SPOOL=str(folder / "spool"),
            PYTHONPATH=os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]),
            RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS="0",
        )
        words = [sys.executable, str(Path(__file__).resolve()), "search", tool, workload]
        words += [str(number) for number in (size, trials, seed)]
        with (folder / "tool.log").open("w") as log:
            process = subprocess.Popen(
                words, env=env, cwd=folder, stdout=log, stderr=log, start_new_session=True
            )
            try:
                code = process.wait(GIVE_UP)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if code:
            raise click.ClickException(f"{tool}, {workload}: {(folder / 'tool.log').read_text()[-3000:]}")
        told = json.loads((folder / "found.json").read_text())
    found = Found(**told, used=statistics.fmean(used) if used else float("nan"))
    click.echo(f"{tool}, {workload}, {size} at a time, seed {seed}: {found}", err=True)
    return found


@contextlib.contextmanager
def _gpu_use() -> Iterator[list[float]]:
    """Sample how busy the first GPU is, in %; nothing without one."""
    seen: list[float] = []
    over = threading.Event()
    gpus = visible_gpus()

    def look() -> None:
        import pynvml

        pynvml.nvmlInit()
        by_number = gpus[0].isdigit()
        find = pynvml.nvmlDeviceGetHandleByIndex if by_number else pynvml.nvmlDeviceGetHandleByUUID
        handle = find(int(gpus[0]) if by_number else gpus[0])
        while not over.wait(0.5):
            seen.append(float(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu))
        pynvml.nvmlShutdown()

    thread = threading.Thread(target=look, daemon=True)
    if gpus:
        thread.start()
    try:
        yield seen
    finally:
        over.set()
        if gpus:
            thread.join()


def _write_data(name: str, folder: Path) -> None:
    """Write a workload's data, if they are not bundled."""
    from sklearn.datasets import load_digits, make_classification

    if name == "digits.npz":  # as a table, so that an MLP is trained
        digits = load_digits()
        np.savez(folder / name, X=digits.data, y=digits.target)
    elif name == "table.npz":
        X, y = make_classification(
            ROWS, COLUMNS, n_informative=14, n_clusters_per_class=8, flip_y=0.05, random_state=0
        )
        np.savez(folder / name, X=X.astype(np.float32), y=y)


@main.command(hidden=True)
@click.argument("tool")
@click.argument("workload")
@click.argument("size", type=int)
@click.argument("trials", type=int)
@click.argument("seed", type=int)
def search(tool: str, workload: str, size: int, trials: int, seed: int) -> None:
    """Run a search in the working directory; write how it went."""
    import mlflow

    mlflow.MlflowClient().search_experiments()  # makes the tables
    chosen = WORKLOADS[workload]
    training = BundledTraining(str(Path(chosen.data).resolve()) if ".npz" in chosen.data else chosen.data)
    training.max_epochs = chosen.most
    training.prepare()
    begin = time.monotonic()
    if tool == "ray":
        epochs, best = _by_ray(training, chosen, size, trials, seed)
    else:
        epochs, best = _by_us(tool, training, chosen, size, trials, seed)
    told = {"seconds": time.monotonic() - begin, "epochs": epochs, "best": best}
    Path("found.json").write_text(json.dumps(told))


def _by_us(
    tool: str, training: BundledTraining, chosen: Workload, size: int, trials: int, seed: int
) -> tuple[int, float]:
    from mlflow_hpo import Study

    floats = {name: {"type": "float", "low": a, "high": b, "log": True} for name, (a, b) in RANGES.items()}
    choices = CHOICES | {name: [value] for name, value in chosen.fixed.items()}
    study = Study(
        training,
        floats | {name: {"type": "categorical", "choices": each} for name, each in choices.items()},
        metric="val_accuracy",
        mode="max",
        searcher="random",
        scheduler={"name": "asha_stopping", "eta": ETA},
        min_resource=chosen.least,
        max_resource=chosen.most,
        trials=trials,
        workers=size,
        seed=seed,
        launcher="packed" if tool == "packed" else "local",
    )
    best = study.run()
    done = study.summary().trials
    if len(done) != trials or any(trial.status == "FAILED" for trial in done):
        raise click.ClickException(f"{len(done)} of {trials} trials are there, or some failed")
    return sum(trial.epochs for trial in done), best.value


def _by_ray(
    training: BundledTraining, chosen: Workload, size: int, trials: int, seed: int
) -> tuple[int, float]:
    import mlflow
    import ray
    from ray import tune
    from ray.air.integrations.mlflow import MLflowLoggerCallback
    from ray.tune.schedulers import ASHAScheduler

    gpus = len(visible_gpus())
    ray.init("local", num_cpus=size, num_gpus=gpus, include_dashboard=False, log_to_driver=False)
    space: dict[str, Any] = {name: tune.loguniform(*ends) for name, ends in RANGES.items()}
    space |= {name: tune.choice(each) for name, each in CHOICES.items()} | dict(chosen.fixed)
    trainable = functools.partial(_ray_trial, training, chosen.most, "cuda:0" if gpus else "cpu", seed)
    results = tune.Tuner(
        tune.with_resources(trainable, {"cpu": 1, "gpu": gpus / size}),
        param_space=space,
        tune_config=tune.TuneConfig(
            metric="val_accuracy",
            mode="max",
            num_samples=trials,
            max_concurrent_trials=size,
            reuse_actors=True,
            scheduler=ASHAScheduler(max_t=chosen.most, grace_period=chosen.least, reduction_factor=ETA),
        ),
        run_config=tune.RunConfig(
            storage_path=str(Path("ray").absolute()),
            callbacks=[MLflowLoggerCallback(mlflow.get_tracking_uri(), experiment_name="packing")],
            verbose=0,
        ),
    ).fit()
    ray.shutdown()
    frames = [result.metrics_dataframe for result in results]
    if len(frames) != trials or any(frame is None for frame in frames):
        raise click.ClickException("not all of Ray's trials are there")
    return sum(map(len, frames)), max(float(frame["val_accuracy"].max()) for frame in frames)


class _RayChannel:
    """The way of a trial that belongs to Ray, without checkpoints."""

    def report(self, epoch: int, metrics: Mapping[str, float]) -> bool:
        from ray import tune

        tune.report(dict(metrics))
        return True

    def save(self, epoch: int, path: Path) -> None: ...

    def load(self) -> tuple[int, Path] | None:
        return None


def _ray_trial(
    training: BundledTraining, epochs: int, device: str, seed: int, params: Mapping[str, Any]
) -> None:
    import torch

    torch.set_num_threads(1)
    training(Trial(params, stop=epochs, seed=seed, device=device, channel=_RayChannel()))


if __name__ == "__main__":
    main()
