"""What it costs to write a trial to MLflow: ours, the peers', and the floor of MLflow's own client."""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

import click
import mlflow
from mlflow.entities import Metric, Param
from options import write_option
from report import markdown_table, publish
from slow_disk import SYNC, slow_disk

sys.path.append(str(Path(__file__).parent.parent / "tests"))
from processes import clean_environment
from server_processes import mlflow_server, postgres_cluster

STEPS = 10
NAMES = ("learning_rate", "momentum", "weight_decay", "dropout", "batch_size")
STORES = {
    "sqlite": "SQLite on this machine's disk, which answers before it has written",
    "sqlite-sync": f"SQLite on a disk that has written when it answers (each `fsync` takes {SYNC:g} ms more)",
    "server": "`mlflow server`, PostgreSQL",
}
EXPERIMENT = "tracking"
SLEEP = 1.0  # seconds that a trial takes where the slowdown is measured

Clock = Callable[[int], None]  # told the number of trials that are written


class _TimeIsUpError(Exception):
    pass


def _config(number: int) -> dict[str, float]:
    return {name: 0.1 + place + number / 1000 for place, name in enumerate(NAMES)}


def _loss(number: int, step: int) -> float:
    return 1.0 / (step + number % 7)


def _floor(trials: int, clock: Clock) -> None:
    """The least that MLflow's own client can do: three calls a trial, one after the other."""
    client = mlflow.MlflowClient()
    experiment = client.create_experiment(EXPERIMENT)
    parent = client.create_run(experiment).info.run_id
    for number in range(trials):
        run = client.create_run(experiment, tags={"mlflow.parentRunId": parent}).info.run_id
        now = int(time.time() * 1000)
        client.log_batch(
            run,
            [Metric("loss", _loss(number, step), now, step) for step in range(1, STEPS + 1)],
            [Param(name, str(value)) for name, value in _config(number).items()],
        )
        client.set_terminated(run)
        clock(number + 1)


def _ours(trials: int, clock: Clock) -> None:
    """As a study writes it: by the tracker, with tags, best values and the study's own progress."""
    from mlflow_hpo.bookkeeper import PROGRESS_PAUSE
    from mlflow_hpo.tracking.tracker import Tracker

    progressed = 0.0
    tracker = Tracker.begin(experiment=EXPERIMENT, name=None, tags={}, params={}, artifacts={})
    clock.done = tracker.flush  # type: ignore[attr-defined]
    for number in range(trials):
        params = {name: str(value) for name, value in _config(number).items()}
        run, _ = tracker.start_trial(number, params, bracket=0, rung=0, seed=0, origin="").result()
        best = math.inf
        for step in range(1, STEPS + 1):
            loss = _loss(number, step)
            best = min(best, loss)
            values = {"loss": loss, "best/loss": best} if loss == best else {"loss": loss}
            tracker.metrics(run, values, step=step, time=time.time())
        ended = {"hpo.epochs": str(STEPS), "hpo.seconds": "1.000", "hpo.best_epoch": "10", "hpo.samples": "1"}
        tracker.tags(run, ended)
        tracker.status(run, "FINISHED")
        if time.monotonic() - progressed > PROGRESS_PAUSE:
            progressed, done = time.monotonic(), number + 1.0
            study = {"trials_started": done, "trials_done": done, "epochs_spent": done * STEPS}
            study |= {"best/loss": 0.1, "gpu_hours_spent": 0.0, "seconds_spent": done}
            tracker.progress(study, step=number)
        clock(number + 1)
    tracker.finish("FINISHED")
    tracker.close()


def _hyperopt(trials: int, clock: Clock) -> None:
    """As tutorials have it: fmin, a nested run for each trial, fluent logging."""
    import numpy as np
    from hyperopt import STATUS_OK, Trials, fmin, hp, rand

    count = 0

    def objective(config: dict[str, float]) -> dict[str, object]:
        nonlocal count
        with mlflow.start_run(nested=True):
            mlflow.log_params(config)
            for step in range(1, STEPS + 1):
                mlflow.log_metric("loss", _loss(count, step), step=step)
        count += 1
        clock(count)
        return {"loss": _loss(count, STEPS), "status": STATUS_OK}

    mlflow.set_experiment(EXPERIMENT)
    space = {name: hp.uniform(name, 0, 1) for name in NAMES}
    with mlflow.start_run():
        fmin(
            objective,
            space,
            rand.suggest,
            trials,
            trials=Trials(),
            rstate=np.random.default_rng(0),
            show_progressbar=False,
        )


def _optuna_callback(trials: int, clock: Clock) -> None:
    """Optuna's MLflowCallback, whose decorator opens the trial's run for the values by step."""
    import optuna
    from optuna_integration.mlflow import MLflowCallback

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    mlflow.set_experiment(EXPERIMENT)
    callback = MLflowCallback(metric_name="final", mlflow_kwargs={"nested": True}, create_experiment=False)

    @callback.track_in_mlflow()
    def objective(trial: optuna.Trial) -> float:
        for name in NAMES:
            trial.suggest_float(name, 0, 1)
        for step in range(1, STEPS + 1):
            mlflow.log_metric("loss", _loss(trial.number, step), step=step)
        return _loss(trial.number, STEPS)

    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(0))
    told = lambda study, trial: clock(trial.number + 1)  # noqa: E731
    with mlflow.start_run():
        study.optimize(objective, n_trials=trials, callbacks=[callback, told])


def _optuna_storage(trials: int, clock: Clock) -> None:
    """Optuna on MLflow's own storage for it."""
    import optuna
    from mlflow.optuna.storage import MlflowStorage

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = MlflowStorage(mlflow.create_experiment(EXPERIMENT))
    clock.done = storage.flush_all_batches  # type: ignore[attr-defined]

    def objective(trial: optuna.Trial) -> float:
        for name in NAMES:
            trial.suggest_float(name, 0, 1)
        for step in range(1, STEPS + 1):
            trial.report(_loss(trial.number, step), step)
        return _loss(trial.number, STEPS)

    study = optuna.create_study(storage=storage, sampler=optuna.samplers.RandomSampler(0), study_name="study")
    study.optimize(objective, n_trials=trials, callbacks=[lambda study, trial: clock(trial.number + 1)])


class _RayTrial:
    """What Ray's callback asks of a trial."""

    def __init__(self, number: int) -> None:
        self.config = _config(number)
        self._number = number

    def __str__(self) -> str:
        return f"train_{self._number:05d}"


def _ray(trials: int, clock: Clock) -> None:
    """Ray Tune's MLflowLoggerCallback alone, called as Tune does; starting Tune's actors is not counted."""
    from ray.air.integrations.mlflow import MLflowLoggerCallback

    callback = MLflowLoggerCallback(mlflow.get_tracking_uri(), experiment_name=EXPERIMENT)
    callback.setup()
    for number in range(trials):
        trial = _RayTrial(number)
        callback.log_trial_start(trial)
        for step in range(1, STEPS + 1):
            callback.log_trial_result(step, trial, {"loss": _loss(number, step), "training_iteration": step})
        callback.log_trial_end(trial)
        clock(number + 1)


TOOLS: dict[str, tuple[Callable[[int, Clock], None], str, str]] = {  # how, package, shown as
    "floor": (_floor, "mlflow", "floor: `create_run`, `log_batch`, `set_terminated`"),
    "ours": (_ours, "mlflow-hpo", "ours"),
    "hyperopt": (_hyperopt, "hyperopt", "hyperopt, fluent nested runs"),
    "optuna-callback": (_optuna_callback, "optuna-integration", "Optuna's `MLflowCallback`"),
    "ray": (_ray, "ray", "Ray Tune's `MLflowLoggerCallback`"),
    "optuna-storage": (_optuna_storage, "optuna", "Optuna on MLflow's `MlflowStorage`"),
}


def _names(_: click.Context, __: click.Parameter, value: str) -> list[str]:
    return value.split(",")


@click.group(invoke_without_command=True)
@click.pass_context
@click.option(
    "--trials", default="100,1000", show_default=True, callback=_names, help="After so many trials."
)
@click.option("--ours", default="10000", show_default=True, callback=_names, help="Ours also after so many.")
@click.option("--cap", default=60.0, show_default=True, help="Seconds for each tool but ours.")
@click.option("--tools", default=",".join(TOOLS), callback=_names, help="Which; the floor comes first.")
@click.option("--stores", default=",".join(STORES), show_default=True, callback=_names)
@click.option("--slow", default=20, show_default=True, help="Trials of a second, for the slowdown of ours.")
@write_option
def main(
    context: click.Context,
    trials: list[str],
    ours: list[str],
    cap: float,
    tools: list[str],
    stores: list[str],
    slow: int,
    write: bool,
) -> None:
    """Write trials of 5 params and 10 values each to fresh stores, by each tool in a process of its own."""
    if context.invoked_subcommand:
        return
    marks = sorted({int(mark) for mark in trials})
    more = sorted({*marks, *(int(mark) for mark in ours if mark)})
    sections = []
    with postgres_cluster() as cluster:
        for store in stores:
            rows, floor = [], 0.0
            for tool in tools:
                at = more if tool == "ours" else marks
                with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
                    uri = f"sqlite:///{folder}/mlflow.db"
                    extra = slow_disk(Path(folder)) if store == "sqlite-sync" else {}
                    if store == "server":
                        backend = cluster.create_database()
                        uri = stack.enter_context(mlflow_server(backend, {}, Path(folder)))
                    measured = _measured(
                        "write", tool, at, None if tool == "ours" else cap, uri, folder, extra
                    )
                    slowed = {}
                    if tool == "ours":
                        slowed = _measured("slowed", str(slow), [], None, uri, folder, extra)
                if tool == "floor":
                    floor = list(measured.values())[-1]
                rows.append(_row(tool, at, more, measured, floor, slowed.get(slow)))
                click.echo(" | ".join(rows[-1]), err=True)
            head = [
                "tool",
                *(f"{mark:,} trials" for mark in more),
                "x floor",
                "slows trials of 1 s by",
                "version",
            ]
            sections.append(f"{STORES[store]}:\n\n{markdown_table(head, rows)}")
    about = (
        "### Tracking\n\nMilliseconds of wall time to write a trial of 5 params and 10 values, the mean over "
        "so many trials from an empty store, with everything written at the end; no training, no search. "
        f"Each tool but ours had {cap:g} s: after an @ stands how many trials it got to. `x floor`: its last "
        "figure over the floor's, which does the least that MLflow's client can. The last column is of whole "
        "studies, with random search.\n\n"
    )
    some_stores = [] if stores == list(STORES) else stores
    some_tools = [] if tools == list(TOOLS) else [tool for tool in tools if tool not in ("floor", "ours")]
    publish("-".join(["tracking", *some_stores, *some_tools]), about + "\n\n".join(sections), write=write)


def _row(
    tool: str,
    at: Sequence[int],
    columns: Sequence[int],
    measured: dict[int, float],
    floor: float,
    slowed: float | None,
) -> list[str]:
    reached = max(measured)
    cells = []
    for mark in columns:
        if mark in measured:
            cells.append(f"{measured[mark] * 1000:,.1f}")
        elif mark == min((m for m in at if m > reached), default=0):
            cells.append(f"{measured[reached] * 1000:,.1f} @ {reached:,}")
        else:
            cells.append("-")
    _, package, shown = TOOLS[tool]
    ratio = f"{measured[reached] / floor:.2f}" if floor else "-"
    slow = "-" if slowed is None else f"{slowed * 100:.1f} %"
    return [shown, *cells, ratio, slow, importlib.metadata.version(package)]


def _measured(
    command: str,
    argument: str,
    marks: Sequence[int],
    cap: float | None,
    uri: str,
    folder: str,
    extra: Mapping[str, str],
) -> dict[int, float]:
    """Return seconds a trial by number of trials, as a process of its own measures them."""
    env = clean_environment(
        MLFLOW_TRACKING_URI=uri,
        MLFLOW_DISABLE_TELEMETRY="true",
        PYTHONPATH=os.environ.get("PYTHONPATH", ""),
        RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS="0",
        **extra,
    )
    words = [sys.executable, str(Path(__file__).resolve()), command, argument]
    words += [",".join(map(str, marks))] if command == "write" else []
    words += ["--seconds", str(cap)] if cap is not None else []
    with tempfile.TemporaryFile("w+") as output:
        log = Path(folder) / "tool.log"
        with log.open("w") as errors:
            done = subprocess.run(words, env=env, cwd=folder, stdout=output, stderr=errors, check=False)
        if done.returncode:
            raise click.ClickException(f"{argument} failed:\n{log.read_text()[-3000:]}")
        output.seek(0)
        found = json.loads(output.read().splitlines()[-1])
    return {int(mark): seconds for mark, seconds in found.items()}


class _Stopwatch:
    """A clock that notes the time at some numbers of trials, and ends the run when time is up."""

    def __init__(self, marks: Sequence[int], cap: float) -> None:
        self.done: Callable[[], None] = lambda: None  # waits until everything is written
        self.found: dict[int, float] = {}
        self._marks = set(marks)
        self._cap = cap
        self._begin = 0.0

    def __call__(self, written: int) -> None:
        if not self._begin:  # the first trial pays for imports and connections
            self._begin = time.monotonic()
            return
        up = time.monotonic() - self._begin > self._cap
        if written in self._marks or up:
            self.done()
            self.found[written] = (time.monotonic() - self._begin) / (written - 1)
        if up:
            raise _TimeIsUpError


@main.command(hidden=True)
@click.argument("tool")
@click.argument("marks")
@click.option("--seconds", default=1e9)
def write(tool: str, marks: str, seconds: float) -> None:
    """Write trials by one tool; print seconds a trial by number of trials."""
    numbers = [int(mark) for mark in marks.split(",")]
    mlflow.MlflowClient().search_experiments()  # makes the tables
    clock = _Stopwatch(numbers, seconds)
    with suppress(_TimeIsUpError):
        TOOLS[tool][0](max(numbers), clock)
    click.echo("\n" + json.dumps(clock.found))
    sys.stdout.flush()
    os._exit(0)  # threads of a peer that was stopped half-way may write on


@main.command(hidden=True)
@click.argument("trials", type=int)
def slowed(trials: int) -> None:
    """Print by which share the trials of a study that sleep for a second take longer than that.

    From the end of the first one to the end of the last: all that the study does counts, the search, too.
    """
    from unittest import mock

    from instant import SleepingLauncher

    from mlflow_hpo import Study
    from mlflow_hpo.launchers import LAUNCHERS

    launcher = SleepingLauncher(1)
    launcher.seconds = SLEEP / STEPS
    ends: list[tuple[float, float]] = []  # time, and slept so far

    class Watch:
        def started(self, summary: object) -> None: ...

        def happened(self, message: str) -> None:
            if re.match(r"trial \d+: finished", message):
                ends.append((time.monotonic(), launcher.slept))

        def ticked(self) -> None: ...

        def ended(self) -> None: ...

    space = {name: {"type": "float", "low": 0.0, "high": 1.0} for name in ("x", *NAMES[1:])}
    budget = {"trials": trials, "max_resource": STEPS}
    search = {"searcher": "random", "scheduler": "full", "experiment": "slowed", "metric": "loss"}
    with mock.patch.object(LAUNCHERS, "get", return_value=lambda workers: launcher):
        Study(print, space, listener=Watch(), mode="min", **search, **budget).run()
    (begin, before), (end, after) = ends[0], ends[-1]
    click.echo("\n" + json.dumps({trials: (end - begin) / (after - before) - 1}))


if __name__ == "__main__":
    main()
