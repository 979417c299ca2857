"""Any of Optuna's samplers; everything that must be known of Optuna stands in this module."""

from __future__ import annotations

import inspect
import logging
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from mlflow_hpo.checks import did_you_mean, one_of
from mlflow_hpo.errors import ConfigError
from mlflow_hpo.searchers.base import Searcher
from mlflow_hpo.space import (
    CategoricalParameter,
    Config,
    FloatParameter,
    Parameter,
    SearchSpace,
)

_ENOUGH = 20  # trials with a finite loss that a level wants before it takes over from a lower one
_MOST = 1000  # trials that Optuna's study grows to; then it is cut down ...
_BEST, _LATEST = 250, 250  # ... to so many of the best and of the latest others, and all that run
_NOT_OURS = {"GridSampler", "BruteForceSampler", "PartialFixedSampler"}  # `grid`, and a smaller space
_HEEDLESS = {"RandomSampler", "QMCSampler"}  # look at no loss


class OptunaSearcher(Searcher):
    """A sampler of Optuna, with a study of its own in memory by ask and tell.

    Parameters are suggested to Optuna as what they are (log, whole numbers, choices), parents first and only
    the active ones, so that its samplers treat conditions as they do in a define-by-run objective.

    Optuna takes one value for each trial, and what it compares must be comparable: its study holds the losses
    at exactly one of `levels`, the highest at which 20 trials have a finite loss, and the lowest until then.
    A trial is RUNNING there until it

    - reports at that level: COMPLETE, with that loss;
    - ends below it, paused or stopped early: PRUNED, with the losses it reported at lower levels. If it goes
      on and reaches the level after all, it becomes a further COMPLETE trial;
    - fails, or its loss is infinite: COMPLETE, with the worst finite loss at the level, so that every sampler
      learns to keep away; FAIL as long as there is none.

    When a higher level takes over, the study is built anew from the losses there. When it holds 1,000 trials
    it is cut down to the best 250, the latest 250 others and all that run, as the cost of a suggestion grows
    with the study. A random or QMC sampler, which looks at no loss, keeps its study, as does a genetic
    algorithm, which would lose its generations.

    Pending trials are what the sampler makes of RUNNING ones: TPE counts them as bad (`constant_liar`), GP
    integrates over them, CMA-ES and NSGA pass over them.

    Args:
        sampler: the name of a sampler class such as "TPESampler", or short such as "tpe", "gp", "cmaes",
            "qmc", "random", "nsgaii", "nsgaiii".
        options: the keyword arguments of that class; without them its own defaults.

    Source: Akiba et al., Optuna: A Next-generation Hyperparameter Optimization Framework, KDD 2019; for each
    sampler see Optuna's reference.
    """

    def __init__(
        self, space: SearchSpace, seed: int, levels: Sequence[int], /, *, sampler: Any = "tpe", **options: Any
    ) -> None:
        try:
            import optuna
        except ImportError as error:
            raise ConfigError("", "optuna needs the extra: pip install 'mlflow-hpo[optuna]'") from error
        self.space = space
        self._optuna = optuna
        self._sampler = _sampler_class(optuna, sampler)
        self._options = _checked(self._sampler, options)
        self._seed = seed
        self._heedless = self._sampler.__name__ in _HEEDLESS
        self._levels = levels[:1] if self._heedless else levels
        self._level = self._levels[0]
        self._losses: dict[int, dict[int, float]] = {}  # of each trial: level -> loss, infinite ones, too
        self._finite: dict[int, list[float]] = {level: [] for level in self._levels}
        self._ended: set[int] = set()  # trials that do not run
        self._failed: set[int] = set()
        self._numbers: dict[int, int] = {}  # each trial's number in Optuna's study, ...
        self._left_out: dict[int, Any] = {}  # ... or what it was when the study was cut down
        self._room = _MOST  # trials that the study may grow to
        # genetic algorithms keep whole generations, by their numbers in the study
        self._whole = self._heedless or issubclass(self._sampler, optuna.samplers.BaseGASampler)
        self._study, self._storage = self._new_study(self._new_sampler())

    def suggest(self, trial_id: int) -> Config:
        """Propose what the sampler suggests."""
        return self._ask(trial_id)

    def adopt(self, trial_id: int, config: Config) -> None:
        """Count the trial as pending."""
        if trial_id in self._numbers:  # this replaces what was suggested
            with self._quiet():
                self._study.tell(self._numbers.pop(trial_id), state=self._optuna.trial.TrialState.FAIL)
        self._ask(trial_id, {name: _write(self.space[name], value) for name, value in config.items()})

    def report(self, trial_id: int, resource: int, loss: float) -> None:
        """Learn from the loss if the trial stands at one of the levels."""
        self._ended.discard(trial_id)  # it goes on
        if resource not in self._finite:
            return
        self._losses[trial_id][resource] = loss
        if loss < math.inf:
            self._finite[resource].append(loss)
        if resource > self._level and len(self._finite[resource]) >= _ENOUGH:
            self._rise(resource)
        elif resource == self._level:
            self._tell(trial_id)

    def complete(self, trial_id: int) -> None:
        """Count a trial that ended below the level as pruned."""
        self._ended.add(trial_id)
        self._tell(trial_id)

    def fail(self, trial_id: int) -> None:
        """Count the trial as bad, unless it brought a loss at the level before."""
        self._ended.add(trial_id)
        self._failed.add(trial_id)
        self._tell(trial_id)

    def _ask(self, trial_id: int, fixed: Mapping[str, Any] | None = None) -> Config:
        with self._quiet():
            if fixed is not None:
                self._study.enqueue_trial(fixed)
            trial = self._study.ask()
            config: Config = {}
            for name, parameter in self.space.items():
                if parameter.is_active(config):
                    config[name] = _suggest(trial, name, parameter)
        self._losses[trial_id] = {}
        self._numbers[trial_id] = trial.number
        if trial.number + 1 >= self._room and not self._whole:
            self._cut_down()
        return config

    def _tell(self, trial_id: int) -> None:
        """Let Optuna's study know what has become of a trial."""
        states = self._optuna.trial.TrialState
        state, loss = self._verdict(trial_id)
        with self._quiet():
            if trial_id in self._left_out:
                if state is states.COMPLETE and self._left_out[trial_id].state is not states.COMPLETE:
                    self._add(trial_id, self._left_out.pop(trial_id))
                return
            frozen = self._frozen(trial_id)
            if frozen.state is states.RUNNING:
                if state is states.PRUNED:
                    for level, value in self._intermediate(trial_id).items():
                        self._storage.set_trial_intermediate_value(frozen._trial_id, level, value)
                if state is not states.RUNNING:
                    self._study.tell(frozen.number, loss, state=state)
            elif frozen.state is states.PRUNED and state is states.COMPLETE:
                self._add(trial_id, frozen)

    def _verdict(self, trial_id: int) -> tuple[Any, float | None]:
        """Return state and value that a trial has at the current level."""
        states = self._optuna.trial.TrialState
        loss = self._losses[trial_id].get(self._level)
        if loss is None and trial_id not in self._failed:
            return (states.PRUNED if trial_id in self._ended else states.RUNNING), None
        if loss is None or loss == math.inf:
            loss = max(self._finite[self._level], default=None)
        return (states.FAIL, None) if loss is None else (states.COMPLETE, loss)

    def _intermediate(self, trial_id: int) -> dict[int, float]:
        losses = self._losses[trial_id].items()
        return {level: loss for level, loss in losses if level < self._level and loss < math.inf}

    def _rise(self, level: int) -> None:
        """Build the study anew from the losses at a higher level."""
        self._level = level
        back = [trial_id for trial_id in self._left_out if level in self._losses[trial_id]]
        # a sampler of its own with a seed of its own: it would repeat its draws
        self._build(sorted([*self._numbers, *back]), self._new_sampler())

    def _cut_down(self) -> None:
        """Build the study anew from what matters most; the sampler goes on as it is."""
        known = [trial_id for trial_id in self._numbers if trial_id in self._ended]
        best = set(sorted(known, key=self._rank)[:_BEST])
        latest = [trial_id for trial_id in known if trial_id not in best][-_LATEST:]
        gone = set(known).difference(best, latest)
        self._build([trial_id for trial_id in self._numbers if trial_id not in gone], self._study.sampler)
        self._room = max(_MOST, 2 * len(self._numbers))

    def _rank(self, trial_id: int) -> tuple[int, float]:
        """Return what sorts trials: the furthest first, up to the level, then the better ones."""
        losses = self._losses[trial_id].items()
        finite = [(-level, loss) for level, loss in losses if level <= self._level and loss < math.inf]
        return min(finite, default=(0, math.inf))

    def _build(self, kept: Sequence[int], sampler: Any) -> None:
        """Begin another study with some of the trials, in their order."""
        stood = self._left_out | {trial_id: self._frozen(trial_id) for trial_id in self._numbers}
        self._numbers = {}
        self._study, self._storage = self._new_study(sampler)
        with self._quiet():
            for trial_id in kept:
                self._add(trial_id, stood.pop(trial_id))
        self._left_out = stood

    def _add(self, trial_id: int, frozen: Any) -> None:
        """Add a trial to the study as it counts now; `frozen` is how it stood there before."""
        state, loss = self._verdict(trial_id)
        trial = self._optuna.trial.create_trial(
            state=state,
            value=loss,
            params=frozen.params,
            distributions=frozen.distributions,
            intermediate_values=self._intermediate(trial_id),
            system_attrs=frozen.system_attrs,  # the generation of CMA-ES and of genetic algorithms
        )
        self._numbers[trial_id] = len(self._study.get_trials(deepcopy=False))
        self._study.add_trial(trial)

    def _frozen(self, trial_id: int) -> Any:
        return self._study.get_trials(deepcopy=False)[self._numbers[trial_id]]

    def _new_sampler(self) -> Any:
        seed = int(np.random.SeedSequence((self._seed, self._level)).generate_state(1)[0])
        seeded = {"seed": seed} if "seed" in inspect.signature(self._sampler).parameters else {}
        with self._quiet():
            try:
                return self._sampler(**self._options, **seeded)
            except (ValueError, TypeError) as error:
                raise ConfigError("", f"{self._sampler.__name__} refuses its options: {error}") from error

    def _new_study(self, sampler: Any) -> tuple[Any, Any]:
        storage = self._optuna.storages.InMemoryStorage()
        with self._quiet():
            return self._optuna.create_study(storage=storage, sampler=sampler), storage

    @contextmanager
    def _quiet(self) -> Iterator[None]:
        """Hold back Optuna's messages: it tells of every trial, and warns of conditions and new samplers."""
        log = logging.getLogger("optuna")
        level = log.level
        log.setLevel(logging.ERROR)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", self._optuna.exceptions.ExperimentalWarning)
                # its densities divide by zero on very large ranges, and go on well
                warnings.filterwarnings("ignore", category=RuntimeWarning, module=r"optuna\.")
                yield
        finally:
            log.setLevel(level)


def _sampler_class(optuna: Any, name: Any) -> type[Any]:
    names = [
        each
        for each in optuna.samplers.__all__
        if each.endswith("Sampler") and not each.startswith("Base") and each not in _NOT_OURS
    ]
    short = {each.removesuffix("Sampler").lower(): each for each in names}
    found = name if name in names else short[one_of("sampler", name, short)]
    if found == "CmaEsSampler":
        try:
            import cmaes  # noqa: F401 - Optuna would miss it in the midst of a study
        except ImportError as error:
            raise ConfigError("", "cmaes needs the extra: pip install 'mlflow-hpo[optuna]'") from error
    made: type[Any] = getattr(optuna.samplers, found)
    return made


def _checked(sampler: type[Any], options: Mapping[str, Any]) -> dict[str, Any]:
    allowed = [name for name in inspect.signature(sampler).parameters if name != "seed"]
    for name in options:
        if name not in allowed:
            those = f"must be one of sampler, {', '.join(allowed)}" if allowed else "there is only sampler"
            raise ConfigError(
                name, f"is no option of {sampler.__name__}; {those}{did_you_mean(name, allowed)}"
            )
    return dict(options)


def _suggest(trial: Any, name: str, parameter: Any) -> Any:
    if isinstance(parameter, CategoricalParameter):
        return trial.suggest_categorical(name, parameter.choices)
    if isinstance(parameter, FloatParameter):
        if parameter.size is None:
            return trial.suggest_float(name, parameter.low, parameter.high, log=parameter.log)
        return parameter.value(trial.suggest_int(name, 0, parameter.size - 1))
    if parameter.log:
        return trial.suggest_int(name, parameter.low, parameter.high, log=True)
    # up to the last value, not to `high`: Optuna wants whole steps
    last = parameter.value(parameter.size - 1)
    return trial.suggest_int(name, parameter.low, last, step=parameter.step or 1)


def _write(parameter: Parameter, value: Any) -> Any:
    """Return what `_suggest` must get from Optuna to return `value`."""
    if isinstance(parameter, FloatParameter) and parameter.size is not None:
        return int(parameter.to_unit(value) * parameter.size)
    return value
