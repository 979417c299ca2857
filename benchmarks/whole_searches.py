"""Whole searches by each tool, tracked in MLflow by what the tool brings for it.

Each function runs so many trials, so many of them at a time, and returns when everything is written. All of
them search at random and stop no trial.
"""

from __future__ import annotations

import functools
import multiprocessing
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
from mlflow.entities import Metric, Param
from workloads import SPACE, Workload

EXPERIMENT = "throughput"


def no_tool(workload: Workload, trials: int, workers: int) -> None:
    """The same trainings one after the other, logged with the least that MLflow's client can do."""
    client, rng = mlflow.MlflowClient(), np.random.default_rng(0)
    experiment = client.create_experiment(EXPERIMENT)
    for _ in range(trials):
        params = {name: float(np.exp(rng.uniform(*np.log(ends)))) for name, ends in SPACE.items()}
        run = client.create_run(experiment).info.run_id
        metrics: list[Metric] = []
        workload.run(params, functools.partial(_keep, metrics))
        client.log_batch(run, metrics, [Param(name, str(value)) for name, value in params.items()])
        client.set_terminated(run)


def _keep(metrics: list[Metric], epoch: int, values: Mapping[str, float]) -> None:
    now = int(1000 * time.time())
    metrics += [Metric(name, value, now, epoch) for name, value in values.items()]


def ours(workload: Workload, trials: int, workers: int) -> None:
    """A study with the local launcher."""
    from mlflow_hpo import Study

    space = {
        name: {"type": "float", "low": low, "high": high, "log": True} for name, (low, high) in SPACE.items()
    }
    Study(
        functools.partial(_our_trial, workload),
        space,
        metric=workload.metric,
        mode="min",
        experiment=EXPERIMENT,
        searcher="random",
        scheduler="full",
        max_resource=workload.reports,
        trials=trials,
        workers=workers,
    ).run()


def _our_trial(workload: Workload, trial: Any) -> None:
    workload.run(trial.params, lambda epoch, metrics: trial.report(epoch, **metrics))


def ray_tune(workload: Workload, trials: int, workers: int) -> None:
    """Ray Tune with its MLflowLoggerCallback; actors are used again."""
    import ray
    from ray import tune
    from ray.air.integrations.mlflow import MLflowLoggerCallback

    uri = mlflow.get_tracking_uri()
    ray.init("local", num_cpus=workers, include_dashboard=False, log_to_driver=False)
    tune.Tuner(
        functools.partial(_ray_trial, workload),
        param_space={name: tune.loguniform(*ends) for name, ends in SPACE.items()},
        tune_config=tune.TuneConfig(num_samples=trials, max_concurrent_trials=workers, reuse_actors=True),
        run_config=tune.RunConfig(
            storage_path=str(Path("ray").absolute()),
            callbacks=[MLflowLoggerCallback(uri, experiment_name=EXPERIMENT)],
            verbose=0,
        ),
    ).fit()
    ray.shutdown()


def _ray_trial(workload: Workload, params: Mapping[str, float]) -> None:
    from ray import tune

    workload.run(params, lambda _, metrics: tune.report(dict(metrics)))


def optuna_callback(workload: Workload, trials: int, workers: int) -> None:
    """Optuna in threads with MLflowCallback, whose decorator opens a trial's run for the values by epoch."""
    import optuna
    from optuna_integration.mlflow import MLflowCallback

    _prepare_optuna()
    callback = MLflowCallback(metric_name="final", create_experiment=False)
    objective = callback.track_in_mlflow()(functools.partial(_optuna_trial, workload))
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(0))
    study.optimize(objective, n_trials=trials, n_jobs=workers, callbacks=[callback])


def optuna_threads(workload: Workload, trials: int, workers: int) -> None:
    """Optuna in threads (`n_jobs`), each trial a run of MLflow's fluent API."""
    import optuna

    _prepare_optuna()
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(0))
    study.optimize(functools.partial(_fluent_trial, workload), n_trials=trials, n_jobs=workers)


def optuna_processes(workload: Workload, trials: int, workers: int) -> None:
    """Optuna in processes that share a journal, its quickest storage for them; runs as with threads."""
    import optuna

    _prepare_optuna()
    optuna.create_study(study_name=EXPERIMENT, storage=_journal())
    spawn = multiprocessing.get_context("spawn")
    shares = [trials // workers + (number < trials % workers) for number in range(workers)]
    processes = [spawn.Process(target=_optuna_process, args=(workload, share)) for share in shares]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        raise RuntimeError("a process of Optuna's failed")


def _optuna_process(workload: Workload, trials: int) -> None:
    import optuna

    _prepare_optuna()
    study = optuna.load_study(
        study_name=EXPERIMENT, storage=_journal(), sampler=optuna.samplers.RandomSampler()
    )
    study.optimize(functools.partial(_fluent_trial, workload), n_trials=trials)


def _journal() -> Any:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    return JournalStorage(JournalFileBackend("optuna.log"))


def _prepare_optuna() -> None:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    mlflow.set_experiment(EXPERIMENT)


def _fluent_trial(workload: Workload, trial: Any) -> float:
    with mlflow.start_run(run_name=f"trial-{trial.number}"):
        value = _optuna_trial(workload, trial)
        mlflow.log_params(trial.params)
    return value


def _optuna_trial(workload: Workload, trial: Any) -> float:
    last: dict[str, float] = {}

    def report(epoch: int, metrics: Mapping[str, float]) -> None:
        mlflow.log_metrics(dict(metrics), step=epoch)
        trial.report(metrics[workload.metric], epoch)
        last.update(metrics)

    workload.run({name: trial.suggest_float(name, *ends, log=True) for name, ends in SPACE.items()}, report)
    return last[workload.metric]


# function, package, shown as
TOOLS: dict[str, tuple[Callable[[Workload, int, int], None], str, str]] = {
    "none": (no_tool, "mlflow", "no tool: one training after the other, three requests each"),
    "ours": (ours, "mlflow-hpo", "ours"),
    "optuna-threads": (optuna_threads, "optuna", "Optuna, `n_jobs`, fluent runs"),
    "optuna-processes": (optuna_processes, "optuna", "Optuna, processes, fluent runs"),
    "optuna-callback": (optuna_callback, "optuna-integration", "Optuna, `n_jobs`, `MLflowCallback`"),
    "ray": (ray_tune, "ray", "Ray Tune, `MLflowLoggerCallback`"),
}
