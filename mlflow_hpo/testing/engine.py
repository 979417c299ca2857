"""What every searcher and every scheduler must hold."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from typing import Any

import numpy as np

from mlflow_hpo.optimizer import Job, Optimizer, TrialState
from mlflow_hpo.schedulers import Decision
from mlflow_hpo.space import Config, SearchSpace

SPACE = SearchSpace(
    {
        "nesterov": {"type": "categorical", "choices": [True, False], "when": {"momentum": [0.5, 0.9]}},
        "learning_rate": {"type": "float", "low": 1e-4, "high": 1e-1, "log": True},
        "batch_size": {"type": "int", "low": 16, "high": 512, "log": True},
        "layers": {"type": "int", "low": 1, "high": 9, "step": 4},
        "optimizer": {"type": "categorical", "choices": ["adam", "sgd", None]},
        "momentum": {"type": "float", "low": 0.1, "high": 0.9, "step": 0.4, "when": {"optimizer": "sgd"}},
        "beta": {"type": "float", "low": 0, "high": 1, "when": {"optimizer": ["adam", None], "layers": 5}},
    }
)


def error(config: Config, epoch: int) -> float:
    """Return a validation error that falls with the epochs and is least at known values."""
    distance = (math.log10(config["learning_rate"]) + 2) ** 2 + (math.log2(config["batch_size"]) - 6) ** 2 / 9
    return distance + {"sgd": 0.0, "adam": 0.5, None: 1.0}[config["optimizer"]] + 1 / epoch


def drive(
    optimizer: Optimizer,
    *,
    workers: int = 4,
    seed: int = 0,
    failures: float = 0.0,
    odd_values: float = 0.0,
    infeasible: float = 0.0,
) -> list[Job]:
    """Run `optimizer` to its end with workers that take turns at random; check what must hold at every step.

    Args:
        failures: share of the epochs that crash.
        odd_values: share of the reported values that are NaN or infinite.
        infeasible: share of the reported values that break a constraint.

    Returns:
        All jobs in the order in which they were handed out.
    """
    rng = random.Random(seed)
    running: dict[int, tuple[Job, Iterator[int]]] = {}
    reached: dict[int, int] = {}  # epochs trained of every trial that may go on
    configs: dict[int, Config] = {}
    eliminated: list[int] = []
    jobs = []
    best: tuple[float, int, int] | None = None  # finite feasible value, trial, epoch
    while True:
        while len(running) < workers and (job := optimizer.ask()) is not None:
            trial = job.trial_id
            assert trial not in running, "handed out twice at the same time"
            assert trial in reached or trial == len(configs), "ids are counted from 0"
            assert job.start == reached.pop(trial, 0), "goes on where the trial stands"
            assert job.start < job.stop <= optimizer.max_resource
            assert job.config == configs.setdefault(trial, job.config), "a trial keeps its configuration"
            assert list(optimizer.space.validate(job.config).items()) == list(job.config.items())
            assert optimizer.state(trial) is TrialState.RUNNING
            running[trial] = job, iter(range(job.start + 1, job.stop + 1))
            jobs.append(job)
        if not running:
            break
        trial = rng.choice(list(running)) if len(running) <= 16 else next(iter(running))
        job, epochs = running[trial]
        epoch = next(epochs)
        if rng.random() < failures:
            optimizer.fail(trial, "crashed")
            del running[trial]
            assert optimizer.state(trial) is TrialState.FAILED
        else:
            value = error(job.config, epoch)
            if rng.random() < odd_values:
                value = rng.choice([math.nan, math.inf, -math.inf])
            feasible = infeasible == 0 or rng.random() >= infeasible
            if feasible and math.isfinite(value) and (best is None or value < best[0]):
                best = value, trial, epoch
            stopped = optimizer.report(trial, epoch, value, feasible=feasible) is Decision.STOP
            assert optimizer.trials[trial].feasible is feasible
            if stopped or epoch == job.stop:
                optimizer.complete(trial)
                del running[trial]
            if epoch == job.stop < optimizer.max_resource and not stopped:
                reached[trial] = epoch
        if len(optimizer.eliminated) > len(eliminated):
            assert list(optimizer.eliminated[: len(eliminated)]) == eliminated, "only ever grows"
            for gone in optimizer.eliminated[len(eliminated) :]:
                assert optimizer.state(gone) is TrialState.STOPPED
                del reached[gone]  # raises if it did not wait; going on later would break the checks above
            eliminated = list(optimizer.eliminated)
    assert optimizer.finished
    assert optimizer.ask() is None
    found = optimizer.best and (optimizer.best.value, optimizer.best.trial_id, optimizer.best.resource)
    assert found == best, "the best value that is finite and feasible"
    assert {trial for trial, record in optimizer.trials.items() if record.state is TrialState.PAUSED} == {
        *reached
    }
    return jobs


def finite(optimizer: Optimizer) -> list[float]:
    """Return the best value of every trial that has one."""
    return [each.best_value for each in optimizer.trials.values() if each.best_value is not None]


def best_of(optimizer: Optimizer) -> float:
    """Return the best value of all."""
    assert optimizer.best is not None
    return optimizer.best.value


class Conformance:
    """Derive a class whose name begins with `Test`, and set `searcher` or `scheduler`, or both.

    Attributes:
        many: trials of the largest study.
        scale: share of the trials of the other studies, for what takes long.
    """

    searcher: Any = "random"
    scheduler: Any = "full"
    many = 1000
    scale = 1.0

    def optimizer(self, trials: int | None, **changes: Any) -> Optimizer:
        """Return the optimizer under test."""
        arguments: dict[str, Any] = {"mode": "min", "max_resource": 9, "seed": 1, "trials": trials} | changes
        return Optimizer(SPACE, searcher=self.searcher, scheduler=self.scheduler, **arguments)

    def scaled(self, trials: int) -> int:
        """Return how many trials stand for `trials`."""
        return round(self.scale * trials)

    def test_the_same_seed_and_calls_give_the_same_jobs(self) -> None:
        first, again = (
            drive(self.optimizer(self.scaled(50)), workers=3, failures=0.05, odd_values=0.05, infeasible=0.05)
            for _ in range(2)
        )
        assert first == again

    def test_ends_with_every_trial_started_and_a_best(self) -> None:
        optimizer = self.optimizer(self.scaled(40))
        drive(optimizer)
        assert len(optimizer.trials) == self.scaled(40)
        assert any(record.state is TrialState.FINISHED for record in optimizer.trials.values())
        assert best_of(optimizer) == min(finite(optimizer))

    def test_survives_failures_nan_infinities_and_infeasible_values(self) -> None:
        optimizer = self.optimizer(self.scaled(60))
        drive(optimizer, workers=8, failures=0.3, odd_values=0.2, infeasible=0.2)
        assert len(optimizer.trials) == self.scaled(60)
        assert math.isfinite(best_of(optimizer))

    def test_ends_without_a_single_value(self) -> None:
        troubles: list[dict[str, Any]] = [{"failures": 1.0}, {"odd_values": 1.0}, {"infeasible": 1.0}]
        for trouble in troubles:
            optimizer = self.optimizer(self.scaled(30))
            drive(optimizer, **trouble)
            assert len(optimizer.trials) == self.scaled(30)
            assert optimizer.best is None

    def test_hands_out_256_trials_at_once(self) -> None:
        optimizer = self.optimizer(self.scaled(300))
        assert len(drive(optimizer, workers=self.scaled(256))) >= self.scaled(300)

    def test_gone_through_again_it_goes_on_alike(self) -> None:
        first = drive(self.optimizer(self.scaled(40)), failures=0.05)
        again = self.optimizer(self.scaled(40))
        again.recall({job.trial_id: job.config for job in first if job.trial_id < self.scaled(25)})
        assert drive(again, failures=0.05) == first

    def test_gone_through_again_what_was_tried_counts(self) -> None:
        tried = {trial: SPACE.sample(np.random.default_rng(trial)) for trial in range(5, self.scaled(20))}
        optimizer = self.optimizer(self.scaled(40))
        optimizer.recall(tried)
        jobs = drive(optimizer, workers=3, failures=0.05)
        assert {job.trial_id: job.config for job in jobs if job.trial_id in tried} == tried

    def test_learns_from_trials_of_another_search(self) -> None:
        optimizer = self.optimizer(self.scaled(40))
        before = self.scaled(20)
        unknown = {1, before - 1}
        for trial in sorted(set(range(before)) - unknown):
            config = SPACE.sample(np.random.default_rng(trial))
            curve = [(epoch, math.nan if trial == 3 else error(config, epoch)) for epoch in (1, 2, 3, 9)]
            optimizer.remember(trial, config, curve[: 1 + trial % 4], "crashed" if trial == 2 else None)
        assert optimizer.trials[0].state is TrialState.STOPPED
        assert optimizer.trials[2].state is TrialState.FAILED
        assert optimizer.trials[3].state is TrialState.FINISHED
        assert best_of(optimizer) == min(finite(optimizer))
        jobs = []
        while (job := optimizer.ask()) is not None:
            jobs.append(job)
            optimizer.report(job.trial_id, job.stop, error(job.config, job.stop))
            optimizer.complete(job.trial_id)
        assert {job.trial_id for job in jobs} == unknown | set(range(before, self.scaled(40)))

    def test_nothing_is_stopped_at_its_full_length(self) -> None:
        optimizer = self.optimizer(self.scaled(40))
        while (job := optimizer.ask()) is not None:  # reports at the end of its job only
            decision = optimizer.report(job.trial_id, job.stop, error(job.config, job.stop))
            assert decision is Decision.CONTINUE or job.stop < optimizer.max_resource
            optimizer.complete(job.trial_id)

    def test_a_single_trial(self) -> None:
        drive(self.optimizer(1))

    def test_tries_given_points_first(self) -> None:
        point = {"learning_rate": 0.01, "batch_size": 64, "layers": 1, "optimizer": None}
        jobs = drive(self.optimizer(self.scaled(30), points=[point]))
        assert jobs[0].config == point

    def test_one_resource_only(self) -> None:
        optimizer = self.optimizer(self.scaled(30), min_resource=5, max_resource=5)
        assert {(job.start, job.stop) for job in drive(optimizer)} == {(0, 5)}
        assert {record.state for record in optimizer.trials.values()} == {TrialState.FINISHED}

    def test_many_trials_of_which_many_come_to_nothing(self) -> None:
        optimizer = self.optimizer(self.many)
        drive(optimizer, workers=self.scaled(256), failures=0.15, odd_values=0.15)
        assert len(optimizer.trials) == self.many
