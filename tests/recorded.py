"""Studies as they are read back from MLflow, made up: of any size, and with names that were made to harm."""

import math
import random
from array import array

import numpy as np

from mlflow_hpo.space import SearchSpace
from mlflow_hpo.tracking.details import Progress, StudyDetails, TrialDetails
from mlflow_hpo.tracking.jobs import WorkedJob
from mlflow_hpo.tracking.summary import StudySummary, TrialSummary

SPACE = {
    "learning_rate": {"type": "float", "low": 1e-4, "high": 1e-1, "log": True},
    "batch_size": {"type": "int", "low": 16, "high": 256, "log": True},
    "dropout": {"type": "float", "low": 0.0, "high": 0.5},
    "optimizer": {"type": "categorical", "choices": ["adam", "sgd", "rmsprop"]},
    "momentum": {"type": "float", "low": 0.5, "high": 0.98, "when": {"optimizer": "sgd"}},
}
BEGIN = 1_764_000_000.0  # seconds since 1970


def recorded(
    trials=30,
    epochs=9,
    *,
    space=SPACE,
    name="made-up",
    reason="out of memory",
    stops=True,
    seed=0,
    workers=4,
    experiment="digits",
    metric="val_accuracy",
):
    """Return a study of ASHA: most trials stop early, every tenth fails, some are paused.

    The learning rate matters most, best at 0.01, the dropout a little.
    """
    rng, draws = random.Random(seed), np.random.default_rng(seed)
    space = SearchSpace(space)
    free = [(0.0, worker) for worker in range(workers)]
    made, progress = [], []
    best, spent = None, 0
    for number in range(trials):
        config = space.sample(draws)
        quality = 0.9 - 0.08 * abs(math.log10(config.get("learning_rate", 0.01)) + 2)
        quality -= 0.05 * config.get("dropout", 0.0) + rng.gauss(0, 0.003)
        status = "FINISHED"
        reached = epochs
        if stops and rng.random() > quality - 0.2:
            reached = rng.choice([1, max(1, epochs // 3)])
            status = "SCHEDULED" if number % 7 == 6 else "KILLED"
        if number % 10 == 9:
            status = "FAILED"
        curve = [
            quality - 0.4 * math.exp(-epoch / 3) + rng.gauss(0, 0.002) for epoch in range(1, reached + 1)
        ]
        begin, worker = min(free)
        free.remove((begin, worker))
        end = begin + 0.2 + reached * 0.9
        free.append((end, worker))
        why = {"FAILED": f"{reason} at epoch {reached}", "KILLED": f"not promoted from epoch {reached}"}
        summary = TrialSummary(
            trial_id=number,
            run_id=f"{number:032x}",
            status=status,
            params=config,
            rung=0,
            epochs=reached,
            value=curve[-1],
            best=max(curve),
            best_epoch=1 + curve.index(max(curve)),
            seconds=end - begin,
            reason=why.get(status, ""),
        )
        made.append(
            TrialDetails(
                summary,
                BEGIN + begin,
                None if status == "SCHEDULED" else BEGIN + end,
                (array("q", range(1, reached + 1)), array("d", curve)),
                (WorkedJob(worker, BEGIN + begin, BEGIN + end),),
                origin="wine 0123" if number < 2 else "",
                traceback=f"Traceback\n  in train\nRuntimeError: {reason}" if status == "FAILED" else "",
            )
        )
        best = max(curve) if best is None else max(best, *curve)
        spent += reached
        progress.append(Progress(number + 1, spent, max(until for until, _ in free), best))
    seconds = progress[-1].seconds
    return StudyDetails(
        summary=StudySummary(
            *(f"{seed:032x}", name, "1", "sqlite:///mlflow.db", "FINISHED", metric, "max", "tpe", "asha"),
            trials_planned=trials,
            max_resource=epochs,
            seconds=seconds,
            epochs=spent,
            gpu_hours=seconds / 3600,
            trials=tuple(trial.summary for trial in made),
            budget={"price_per_gpu_hour": 2.5, "cost": 20.0},
        ),
        experiment=experiment,
        task="digits",
        started=BEGIN,
        ended=BEGIN + seconds,
        space=space,
        workers=workers,
        settings={
            "searcher": "tpe",
            "scheduler": "asha",
            "warm_start": "12 trials on 1 task say what to try",
        },
        trials=tuple(made),
        progress=tuple(progress),
        warm_start={
            "configurations": [{"config": {"dropout": 0.1}, "task": "wine", "run_id": "0", "expected": 0.9}],
            "tasks": [{"task": "wine", "weight": 1.0, "trials": 12}],
        },
    )
