from __future__ import annotations

import logging
import math
import re
import sys
from statistics import mean

import numpy as np
import optuna
import pytest

from mlflow_hpo.errors import ConfigError
from mlflow_hpo.optimizer import Optimizer
from mlflow_hpo.searchers import SEARCHERS
from mlflow_hpo.searchers.optuna import OptunaSearcher
from mlflow_hpo.space import SearchSpace
from mlflow_hpo.testing import SPACE, drive

LINE = SearchSpace({"x": {"type": "float", "low": 0, "high": 1}})
SAMPLERS = ["tpe", "cmaes", "qmc", "random", "nsgaii", "nsgaiii"]


def states(searcher):
    """The trials of Optuna's study as (x, state, value)."""
    trials = searcher._study.get_trials(deepcopy=False)
    return [(trial.params["x"], trial.state.name, trial.value) for trial in trials]


def run(searcher, trial, x, losses, *, end=True):
    searcher.adopt(trial, {"x": x})
    for resource, loss in losses.items():
        searcher.report(trial, resource, loss)
    if end:
        searcher.complete(trial)


@pytest.mark.parametrize("scheduler", ["full", "asha"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_searches_a_conditional_space(sampler, scheduler):
    def jobs():
        engine = Optimizer(SPACE, mode="min", searcher={"name": "optuna", "sampler": sampler},
                           scheduler=scheduler, max_resource=9, trials=60, seed=1)  # fmt: skip
        return drive(engine, failures=0.05, odd_values=0.05)

    assert jobs() == jobs()


def test_the_gaussian_process():
    searcher = {"name": "optuna", "sampler": "gp", "n_startup_trials": 5}
    engine = Optimizer(LINE, mode="min", searcher=searcher, scheduler="full", trials=8, seed=0)
    while (job := engine.ask()) is not None:
        engine.report(job.trial_id, 1, (job.config["x"] - 0.3) ** 2)
        engine.complete(job.trial_id)
    assert engine.best.value < 1e-3


def test_tpe_finds_the_optimum_better_than_random():
    def best(sampler, seed):
        engine = Optimizer(SPACE, mode="min", searcher={"name": "optuna", "sampler": sampler},
                           scheduler="full", trials=80, seed=seed)  # fmt: skip
        drive(engine, workers=4, seed=seed)
        return engine.best.value - 1

    tpe, random = ([best(sampler, seed) for seed in range(3)] for sampler in ("tpe", "random"))
    assert mean(tpe) < mean(random) / 2


@pytest.fixture
def small_study(monkeypatch):
    """Studies that are cut down at 30 trials, to the best 5 and the latest 5 others."""
    for name, value in {"_MOST": 30, "_BEST": 5, "_LATEST": 5}.items():
        monkeypatch.setattr(f"mlflow_hpo.searchers.optuna.{name}", value)


@pytest.mark.parametrize("sampler", ["tpe", "cmaes"])
def test_a_long_study_is_cut_down_to_the_best_the_latest_and_what_runs(small_study, sampler):
    searcher = OptunaSearcher(LINE, 0, (9,), sampler=sampler)
    searcher.suggest(0)  # runs on
    told = {trial: abs(trial - 12.0) for trial in range(1, 29)}
    for trial, loss in told.items():
        run(searcher, trial, trial / 100, {9: loss})

    searcher.suggest(29)

    assert list(searcher._numbers) == [0, *range(10, 15), *range(24, 29), 29]
    assert [value for _, state, value in states(searcher) if state == "COMPLETE"] == [
        told[trial] for trial in [*range(10, 15), *range(24, 29)]
    ]
    assert [state for _, state, _ in states(searcher)].count("RUNNING") == 2
    assert len({searcher.suggest(trial)["x"] for trial in range(30, 40)}) == 10


def test_what_was_left_out_comes_back_with_a_loss_at_the_level(small_study):
    searcher = OptunaSearcher(LINE, 0, (1, 9))
    for trial in range(30):
        run(searcher, trial, trial / 100, {1: float(trial)})
    assert 10 in searcher._left_out

    for trial in range(10, 29):
        searcher.report(trial, 9, -float(trial))
    assert 10 in searcher._left_out  # it is known at the lower level as it was

    searcher.report(29, 9, -29.0)  # the level of 9 takes over

    assert set(searcher._numbers) >= set(range(10, 30))
    assert (0.1, "COMPLETE", -10.0) in states(searcher)


def test_what_got_far_is_kept_before_what_did_not(small_study):
    searcher = OptunaSearcher(LINE, 0, (1, 9))
    searcher._level = 9  # as if enough had got there
    for trial in range(29):
        losses = {1: float(-trial)} | ({9: float(trial)} if trial in (3, 7) else {})
        run(searcher, trial, trial / 100, losses)

    searcher.suggest(29)

    # two reached the level; then the best of the level below, which are the latest as well
    assert [*searcher._numbers] == [3, 7, *range(21, 30)]


def test_more_running_trials_than_a_study_is_cut_down_to(small_study):
    searcher = OptunaSearcher(LINE, 0, (9,))
    builds = []
    build = searcher._build
    searcher._build = lambda *args: builds.append(1) or build(*args)
    for trial in range(100):
        searcher.suggest(trial)
    assert len(searcher._numbers) == 100
    assert len(builds) == 2  # at 30 and at 60 trials


def test_generations_are_kept_whole(small_study):
    searcher = OptunaSearcher(LINE, 0, (9,), sampler="nsgaii", population_size=2)
    for trial in range(200):
        x = searcher.suggest(trial)["x"]
        searcher.report(trial, 9, (x - 0.3) ** 2)
        searcher.complete(trial)
    assert len(searcher._numbers) == 200


def test_a_sampler_that_looks_at_no_loss_keeps_its_sequence(small_study):
    searcher = OptunaSearcher(LINE, 0, (9,), sampler="qmc")
    proposals = set()
    for trial in range(60):
        proposals.add(searcher.suggest(trial)["x"])
        searcher.report(trial, 9, 1.0)
        searcher.complete(trial)
    assert len(proposals) == len(searcher._numbers) == 60


def test_a_value_is_told_once_at_the_level():
    searcher = OptunaSearcher(LINE, 0, (1, 3, 9))
    run(searcher, 0, 0.1, {}, end=False)
    assert states(searcher) == [(0.1, "RUNNING", None)]
    searcher.report(0, 1, 5.0)
    searcher.report(0, 2, 4.0)
    searcher.report(0, 3, 3.0)
    searcher.complete(0)
    assert states(searcher) == [(0.1, "COMPLETE", 5.0)]


def test_a_higher_level_takes_over_once_enough_trials_reached_it():
    searcher = OptunaSearcher(LINE, 0, (1, 3, 9))
    for trial in range(19):
        run(searcher, trial, trial / 100, {1: 1.0 + trial, 3: -1.0 - trial})
    run(searcher, 19, 0.5, {1: 7.0})  # stopped early
    run(searcher, 20, 0.6, {}, end=False)
    run(searcher, 21, 0.7, {1: 9.0}, end=False)
    assert [state for _, state, _ in states(searcher)] == ["COMPLETE"] * 20 + ["RUNNING", "COMPLETE"]
    searcher.report(21, 3, -20.0)
    levelled = states(searcher)
    assert levelled[:19] == [(trial / 100, "COMPLETE", -1.0 - trial) for trial in range(19)]
    assert levelled[19:] == [(0.5, "PRUNED", None), (0.6, "RUNNING", None), (0.7, "COMPLETE", -20.0)]
    # a paused trial goes on and reaches the level after all; one that was running there ends below it
    searcher.report(19, 3, -30.0)
    searcher.report(20, 1, 8.0)
    searcher.complete(20)
    assert states(searcher)[20:] == [(0.6, "PRUNED", 8.0), (0.7, "COMPLETE", -20.0), (0.5, "COMPLETE", -30.0)]


@pytest.mark.parametrize("end", ["fail", "diverge"])
def test_trials_that_come_to_nothing_count_as_the_worst(end):
    searcher = OptunaSearcher(LINE, 0, (1,))

    def nothing(trial):
        run(searcher, trial, 0.9, {1: math.inf} if end == "diverge" else {}, end=False)
        if end == "fail":
            searcher.fail(trial)

    nothing(0)
    run(searcher, 1, 0.1, {1: 2.0})
    run(searcher, 2, 0.2, {1: 5.0})
    nothing(3)
    assert [state[1:] for state in states(searcher)] == [
        ("FAIL", None), ("COMPLETE", 2.0), ("COMPLETE", 5.0), ("COMPLETE", 5.0)
    ]  # fmt: skip


def test_a_failure_after_the_level_changes_nothing():
    searcher = OptunaSearcher(LINE, 0, (1, 9))
    run(searcher, 0, 0.1, {1: 2.0}, end=False)
    searcher.fail(0)
    assert states(searcher) == [(0.1, "COMPLETE", 2.0)]


@pytest.mark.parametrize("sampler", ["qmc", "random"])
def test_a_sampler_that_learns_nothing_keeps_its_sequence_at_higher_levels(sampler):
    searchers = [OptunaSearcher(LINE, 0, levels, sampler=sampler) for levels in ((1, 9), (1,))]
    drawn = []
    for searcher in searchers:
        drawn.append([])
        for trial in range(60):
            drawn[-1].append(searcher.suggest(trial)["x"])
            searcher.report(trial, 1, 0.0)
            searcher.report(trial, 9, 0.0)
            searcher.complete(trial)
    assert drawn[0] == drawn[1]
    assert len(set(drawn[0])) == 60


@pytest.mark.parametrize(
    "parameter",
    [
        {"type": "categorical", "choices": ["only"]},
        {"type": "categorical", "choices": [None, True, 1.5, "a"]},
        {"type": "int", "low": 1, "high": 6, "step": 3},
        {"type": "int", "low": 3, "high": 1000, "log": True},
        {"type": "int", "low": -(2**53), "high": 2**53},
        {"type": "float", "low": 0.1, "high": 0.75, "step": 0.2},
        {"type": "float", "low": 1e-9, "high": 1.0, "log": True},
    ],
)
def test_every_kind_of_parameter_goes_there_and_back(parameter):
    space = SearchSpace({"x": parameter})
    searcher = OptunaSearcher(space, 0, (1,), n_startup_trials=5)
    rng = np.random.default_rng(0)
    for trial in range(10):
        config = space.sample(rng)
        searcher.adopt(trial, config)
        searcher.report(trial, 1, float(trial))
        searcher.complete(trial)
    asked = []
    for trial in range(10, 20):
        asked.append(searcher.suggest(trial))
        searcher.fail(trial)
    assert all(space.validate(config) == config for config in asked)


def test_adopts_exactly_what_was_given():
    searcher = OptunaSearcher(SPACE, 0, (1,))
    rng = np.random.default_rng(0)
    asked = []
    ask = searcher._ask
    searcher._ask = lambda *arguments: asked.append(ask(*arguments))
    given = [SPACE.sample(rng) for _ in range(50)]
    for trial, config in enumerate(given):
        searcher.adopt(trial, config)
    assert asked == given


def test_options_reach_the_sampler():
    searcher = OptunaSearcher(LINE, 0, (1,), sampler="TPESampler", n_startup_trials=3, multivariate=True)
    assert searcher._study.sampler._n_startup_trials == 3
    assert searcher.suggest(0) != OptunaSearcher(LINE, 1, (1,)).suggest(0)


def test_leaves_optuna_s_messages_to_others_as_they_were(caplog, capfd):
    log = logging.getLogger("optuna")
    before = log.level
    with caplog.at_level("INFO"):
        searcher = OptunaSearcher(SPACE, 0, (1,), sampler="qmc")
        for trial in range(5):  # conditions and a new sampler, of both of which Optuna warns
            searcher.suggest(trial)
            searcher.report(trial, 1, 0.0)
    assert log.level == before
    assert not caplog.records
    assert capfd.readouterr().err == ""


def test_names_the_extra_that_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "cmaes", None)
    with pytest.raises(ConfigError, match=r"^searcher: cmaes needs the extra: pip install"):
        SEARCHERS.create({"name": "optuna", "sampler": "cmaes"}, LINE, 0, (1,))
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ConfigError, match=r"^searcher: optuna needs the extra: .*mlflow-hpo\[optuna\]'$"):
        SEARCHERS.create("optuna", LINE, 0, (1,))


@pytest.mark.parametrize(
    ("options", "field", "problem"),
    [
        ({"sampler": "tpee"}, "searcher.sampler", "must be one of .*, got 'tpee'; did you mean 'tpe'?"),
        ({"sampler": "grid"}, "searcher.sampler", "must be one of "),
        ({"sampler": 5}, "searcher.sampler", "must be one of .*, got 5"),
        ({"n_startup": 5}, "searcher.n_startup", ".* TPESampler; .*did you mean 'n_startup_trials'"),
        ({"seed": 5}, "searcher.seed", "is no option of TPESampler"),
        ({"sampler": "random", "gamma": 5}, "searcher.gamma", ".* RandomSampler; there is only sampler"),
        ({"sampler": "qmc", "qmc_type": "x"}, "searcher", "QMCSampler refuses its options: "),
    ],
)  # fmt: skip
def test_wrong_options_are_refused(options, field, problem):
    with pytest.raises(ConfigError) as raised:
        SEARCHERS.create({"name": "optuna", **options}, LINE, 0, (9,))
    assert raised.value.field == field
    assert re.match(problem.replace("?", r"\?"), raised.value.problem), raised.value.problem


def test_every_sampler_that_optuna_has_is_known_by_name():
    skipped = {"BaseSampler", "BaseGASampler", "GridSampler", "BruteForceSampler", "PartialFixedSampler"}
    names = [name for name in optuna.samplers.__all__ if name.endswith("Sampler") and name not in skipped]
    for name in names:
        assert OptunaSearcher(LINE, 0, (1,), sampler=name)._study.sampler.__class__.__name__ == name
