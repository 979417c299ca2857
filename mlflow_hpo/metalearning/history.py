"""History: the configurations that were tried on earlier tasks, and what became of them."""

from __future__ import annotations

import math
import numbers
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mlflow_hpo.checks import finite_number, is_finite, one_of, shown, whole_number
from mlflow_hpo.errors import ConfigError
from mlflow_hpo.space import Config, SearchSpace

if TYPE_CHECKING:
    from mlflow_hpo.metalearning.task_model import TaskModel
    from mlflow_hpo.searchers.prior import Prior

Curve = tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class PastTrial:
    """A configuration that was tried.

    Attributes:
        config: its values.
        curve: (epoch, finite value), epochs ascending; at least one unless it failed.
        run_id: its run in MLflow, "" if there is none.
        failed: it came to nothing after its curve: crashed, diverged, or broke a constraint.
    """

    config: Config
    curve: Curve
    run_id: str = ""
    failed: bool = False

    def best(self, mode: str) -> float:
        """Return the best value of the curve, the worst there is if it has none."""
        values = [value for _, value in self.curve]
        return max(values, default=-math.inf) if mode == "max" else min(values, default=math.inf)


@dataclass(frozen=True, slots=True)
class PastTask:
    """What was tried on one task; `features` describe it, by name."""

    name: str
    features: Mapping[str, float]
    trials: tuple[PastTrial, ...]


class History:
    """What was tried on earlier tasks.

    Args:
        tasks: the tasks, each with at least one trial.
        mode: "max" or "min", the better side of the values.
        skipped: how many trials or studies were left out, by reason.
        studies, runs: run ids of the studies and of the plain runs it comes from, if it was mined.

    >>> History.from_records([
    ...     {"task": "digits", "features": {"rows": 1797}, "config": {"x": 0.5}, "curve": [[1, 0.8]]},
    ...     {"task": "digits", "config": {"x": 0.1}, "curve": [[1, float("nan")]]},
    ... ])
    History(1 task, 1 trial; left out: 1 without a finite value)
    """

    def __init__(
        self,
        tasks: Iterable[PastTask],
        *,
        mode: str = "max",
        skipped: Mapping[str, int] | None = None,
        studies: Iterable[str] = (),
        runs: Iterable[str] = (),
    ) -> None:
        self.tasks = tuple(tasks)
        self.mode = one_of("mode", mode, ("max", "min"))
        self.skipped = dict(skipped or {})
        self.studies = tuple(studies)
        self.runs = tuple(runs)
        self._checked: SearchSpace | None = None  # a space that contains all configurations
        self._models: dict[tuple[str, SearchSpace], TaskModel] = {}  # of a task, in a space

    @classmethod
    def from_records(cls, records: Sequence[Mapping[str, Any]], *, mode: str = "max") -> History:
        """Return a history of plain data.

        Args:
            records: one for each trial: ``task`` (a name), ``config``, ``curve`` (a list of [epoch, value])
                and, if known, ``features`` of the task (name -> number), ``run_id``, and ``failed``: whether
                it came to nothing after its curve. The features of a task are those of its first record
                that has any.
            mode: the better side of the values.

        Raises:
            ConfigError: a record is malformed; the field is ``history[3].curve`` or the like. Values that are
                not finite are no error: they are left out.
        """
        read = []
        for index, record in enumerate(records):
            try:
                read.append(_read(record))
            except ConfigError as error:
                raise error.under(f"history[{index}]") from None
        return cls._of(read, mode=mode)

    @classmethod
    def mined(
        cls,
        records: Iterable[Any],
        *,
        mode: str,
        skipped: Mapping[str, int],
        studies: Iterable[str],
        runs: Iterable[str] = (),
    ) -> History:
        """Return a history of records of which some may be malformed: these are left out.

        Args:
            records, mode: as in `from_records`.
            skipped: what was left out before.
            studies, runs: run ids of the studies and of the plain runs that the records come from.
        """
        read = []
        unreadable = 0
        for record in records:
            try:
                read.append(_read(record))
            except (ConfigError, OverflowError):
                unreadable += 1
        counted = Counter(skipped) + Counter({"trials that cannot be read": unreadable})
        return cls._of(read, mode=mode, skipped=counted, studies=studies, runs=runs)

    @classmethod
    def _of(
        cls,
        read: Iterable[tuple[str, dict[str, float], PastTrial]],
        *,
        mode: str,
        skipped: Mapping[str, int] | None = None,
        studies: Iterable[str] = (),
        runs: Iterable[str] = (),
    ) -> History:
        features: dict[str, dict[str, float]] = {}
        trials: dict[str, list[PastTrial]] = {}
        left_out = Counter(skipped or {})
        for name, described, trial in read:
            features[name] = features.get(name) or described
            if trial.curve or trial.failed:
                trials.setdefault(name, []).append(trial)
            else:
                left_out["without a finite value"] += 1
        tasks = (PastTask(name, features[name], tuple(tried)) for name, tried in trials.items())
        return cls(tasks, mode=mode, skipped=left_out, studies=studies, runs=runs)

    @classmethod
    def from_mlflow(
        cls,
        sources: Sequence[str] | None = None,
        *,
        metric: str,
        mode: str,
        space: SearchSpace,
        rename: Mapping[str, str] | None = None,
        task: str = "dataset",
    ) -> History:
        """Return the history that MLflow holds: studies of this package, and plain runs of any script.

        Of a study only the parent run is listed; what became of its trials is read from one artifact. Which
        plain runs there are, and how they are read, says `mlflow_hpo.metalearning.plain_runs`.

        Args:
            sources: names of the experiments to look at, and ``runs:/<run id>`` for single studies and plain
                runs; None for all experiments.
            metric, mode: what is optimised; studies of another metric or mode are left out, as are runs
                without the metric. A plain run says nothing of the mode: that it is the same is believed.
            space: trials and runs whose configuration it does not contain are left out.
            rename: parameter of the space, by the name that earlier runs have for it.
            task: what tells the task of a plain run: "dataset", its MLflow datasets; "experiment";
                "tag:NAME" or "param:NAME", the value of a tag or param.

        Raises:
            ConfigError: there is no such experiment, study or plain run, or a rule makes no sense.
            StudyError: the store cannot be used.
        """
        from mlflow_hpo.metalearning.mining import mine  # imports MLflow
        from mlflow_hpo.metalearning.rules import Rules

        rules = Rules(dict(rename or {}), task)
        rules.check(space)
        return mine(sources, metric=metric, mode=mode, space=space, rules=rules)

    def without(self, *names: str) -> History:
        """Return the history without some tasks."""
        tasks = [task for task in self.tasks if task.name not in names]
        return self._like(tasks, self.skipped, self._checked)

    def model(self, task: PastTask, space: SearchSpace) -> TaskModel:
        """Return the model of one of the tasks of ``within(space)``; it is made once."""
        from mlflow_hpo.metalearning.task_model import TaskModel

        if (task.name, space) not in self._models:
            self._models[task.name, space] = TaskModel(task, space, self.mode)
        return self._models[task.name, space]

    def prior(
        self, space: SearchSpace, levels: Sequence[int], mode: str, task: Mapping[str, Any]
    ) -> Prior | None:
        """Return what `Experience.prior` promises; `mode` must be that of the history."""
        from mlflow_hpo.metalearning.portfolio import Portfolio

        if mode != self.mode:
            raise ConfigError("history", f"must be of values whose better side is {mode}, got {self.mode}")
        if not isinstance(task, Mapping):
            raise ConfigError("task", f"must be a mapping, got {shown(task)}")
        for key in task:
            one_of("task", key, ("name", "features"))
        try:
            features = _features(task.get("features"))
        except ConfigError as error:
            raise error.under("task") from None
        history = self.within(space)
        return Portfolio(history, space, features).prior(levels) if history else None

    def within(self, space: SearchSpace) -> History:
        """Return the part whose configurations `space` contains; its `skipped` tells of the rest."""
        if self._checked == space:
            return self
        skipped = Counter(self.skipped)
        tasks = []
        for task in self.tasks:
            kept = []
            for trial in task.trials:
                try:
                    kept.append(replace(trial, config=space.validate(trial.config)))
                except ConfigError as error:
                    skipped[why_outside(error, space)] += 1
            if kept:
                tasks.append(replace(task, trials=tuple(kept)))
        return self._like(tasks, skipped, space)

    def _like(
        self, tasks: Iterable[PastTask], skipped: Mapping[str, int], checked: SearchSpace | None
    ) -> History:
        history = History(tasks, mode=self.mode, skipped=skipped, studies=self.studies, runs=self.runs)
        history._checked = checked
        history._models = self._models
        return history

    @property
    def trials(self) -> int:
        """How many trials there are."""
        return sum(len(task.trials) for task in self.tasks)

    @property
    def left_out(self) -> str:
        """What was left out, in words; "" if nothing was."""
        return ", ".join(f"{count} {reason}" for reason, count in sorted(self.skipped.items()))

    def __bool__(self) -> bool:
        return bool(self.tasks)

    def __repr__(self) -> str:
        left_out = f"; left out: {self.left_out}" if self.skipped else ""
        return f"History({counted(len(self.tasks), 'task')}, {counted(self.trials, 'trial')}{left_out})"


def _read(record: Any) -> tuple[str, dict[str, float], PastTrial]:
    """Return the task's name and features, and the trial of a record; its curve may be empty."""
    if not isinstance(record, Mapping):
        raise ConfigError("", f"must be a mapping, got {shown(record)}")
    for key in ("task", "config", "curve"):
        if key not in record:
            raise ConfigError(key, "is missing")
    name, config = record["task"], record["config"]
    run_id, failed = record.get("run_id", ""), record.get("failed", False)
    if not isinstance(name, str) or not name:
        raise ConfigError("task", f"must be a name, got {shown(name)}")
    if not isinstance(config, Mapping):
        raise ConfigError("config", f"must map parameters to values, got {shown(config)}")
    if not isinstance(run_id, str):
        raise ConfigError("run_id", f"must be text, got {shown(run_id)}")
    if not isinstance(failed, bool):
        raise ConfigError("failed", f"must be true or false, got {shown(failed)}")
    trial = PastTrial(dict(config), _curve(record["curve"]), run_id, failed)
    return name, _features(record.get("features")), trial


def _features(features: Any) -> dict[str, float]:
    if features is None:
        return {}
    if not isinstance(features, Mapping):
        raise ConfigError("features", f"must map names to numbers, got {shown(features)}")
    return {str(name): finite_number(f"features.{name}", value) for name, value in features.items()}


def _curve(points: Any) -> Curve:
    """Return the finite points in the order of their epochs."""
    if not isinstance(points, Sequence) or isinstance(points, str):
        raise ConfigError("curve", f"must be a list of [epoch, value], got {shown(points)}")
    if (sound := _sound(points)) is not None:
        return sound
    read: dict[int, float] = {}
    for index, point in enumerate(points):
        if not isinstance(point, Sequence) or isinstance(point, str) or len(point) != 2:
            raise ConfigError(f"curve[{index}]", f"must be [epoch, value], got {shown(point)}")
        epoch, value = whole_number(f"curve[{index}]", point[0], at_least=1), point[1]
        if not isinstance(value, numbers.Real) or isinstance(value, bool):
            raise ConfigError(f"curve[{index}]", f"must have a number as its value, got {shown(value)}")
        if epoch in read:
            raise ConfigError(f"curve[{index}]", f"must not repeat epoch {epoch}")
        if is_finite(value):
            read[epoch] = float(value)
        else:
            read[epoch] = math.nan
    return tuple((epoch, value) for epoch, value in sorted(read.items()) if not math.isnan(value))


def _sound(points: Sequence[Any]) -> Curve | None:
    """Return a curve of finite values by ascending epoch; None if it is not such a one, as far as is seen.

    Nearly all are, and of a million points each need not be checked with care.
    """
    last = 0
    for point in points:
        if type(point) is not list or len(point) != 2:
            return None
        epoch, value = point
        if (
            type(epoch) is not int
            or not last < epoch < sys.maxsize
            or type(value) is not float
            or not math.isfinite(value)
        ):
            return None
        last = epoch
    return tuple(map(tuple, points))


def why_outside(error: ConfigError, space: SearchSpace) -> str:
    """Return the reason to leave a trial out whose configuration `space` refused."""
    if error.field not in space:
        return "with a parameter that the space does not have"
    if error.problem == "is missing":
        return "without a parameter of the space"
    if error.problem.startswith("must be left out"):
        return "with a parameter that is not active"
    return "with a value outside of the space"


def counted(number: int, what: str) -> str:
    """Return a number and what it counts, in words."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
