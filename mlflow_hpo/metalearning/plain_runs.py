"""Plain runs: what scripts that know nothing of this package logged to MLflow, as history."""

from __future__ import annotations

import hashlib
import math
import re
import statistics
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from operator import truediv
from typing import Any

from mlflow.entities import Metric, Run
from mlflow.store.entities import PagedList
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

from mlflow_hpo.errors import ConfigError
from mlflow_hpo.metalearning.history import why_outside
from mlflow_hpo.space import Config, SearchSpace
from mlflow_hpo.tracking.connect import ask

_PAGE = 1000  # runs a request
_MOST = 1000  # runs in all; a study records each of them
_MOST_TASKS = 50  # the latest ones; a portfolio looks at no more
_MOST_OF_TASK = 250  # runs; the model of a task sees as many values
_MOST_CURVES = 100  # of a task; each is a request
_MOST_POINTS = 1000  # of a curve
_EPOCH = 100  # steps between two values, on average; what steps further count are batches, examples, seconds
_FAR = 1000  # times the epochs of the middle one of a task: no epochs of this task
_INFINITE = 1.797e308  # and beyond: how MLflow's databases store infinity
_UNUSED = "1.5e308"  # a value that no run has
_LONGEST = 200  # characters of a task's name
_METRIC = re.compile(r"[\w.\- :/]+")  # what MLflow takes for a metric's name
_STATUSES = ("FINISHED", "FAILED")


@dataclass(frozen=True, slots=True)
class Mined:
    """What was found in MLflow.

    Attributes:
        records: for `History.mined`, one for each trial.
        run_ids: the runs to name for the same records again.
        skipped: how many studies or runs were left out, by reason.
    """

    records: list[dict[str, Any]] = field(default_factory=list)
    run_ids: list[str] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class _Ended:
    """What is kept of a run.

    Attributes:
        last, step: the last value of the metric, and where it stands.
        crashed: it ended as FAILED.
    """

    run_id: str
    task: str
    config: Config
    last: float
    step: int
    crashed: bool

    def loss(self, sign: float) -> float:
        """Return what sorts runs, the best first."""
        return sign * self.last if math.isfinite(self.last) and not self.crashed else math.inf


@dataclass(frozen=True, slots=True)
class _Point:
    """A value of a curve: the step that it has, and its number among the values of the curve."""

    step: int
    number: int
    value: float


def plain_runs(
    client: MlflowClient,
    named: Iterable[tuple[Run, str]],
    experiments: Mapping[str, str],
    *,
    metric: str,
    mode: str,
    space: SearchSpace,
    taken: Collection[str] = (),
) -> Mined:
    """Read runs that no study of this package made.

    Used are runs that FINISHED or FAILED, with a value of `metric`, and with a param for each of the
    parameters of `space` that are active; deleted ones only where they are named. Unlike trials of a study,
    they may have further params, such as ``data_path``: what a script logs besides is taken to be no matter.
    So are params of inactive parameters. Runs without any param of the space are other things, and not told
    of. Studies and trials are known by their tag ``hpo.kind``; the run that ``mlflow run`` makes for a study
    is the study's own.

    A task is what has the same datasets: names and digests of those that were logged as training data, of all
    if none was. Runs without datasets are a task of their experiment.

    Epochs are steps, moved up where they begin below 1. Where the values of a task's curves stand more than
    100 steps apart (the median), its steps count something else, and values are numbered instead. A step's
    value is its last by time. A run whose last value is not finite has diverged, which is a failure.

    At most 1,000 runs are used, of the 50 latest tasks, and at most 250 of one: half of them the best, the
    others evenly spread over the rest. Curves are read of 100 of a task; the others have only their last
    value.

    Args:
        client: of the store.
        named: runs to use, with the names of their experiments.
        experiments: name by id, of those to look for more in.
        metric, mode: what is optimised.
        space: what the configurations are from.
        taken: names that tasks must not have.

    Raises:
        StudyError: the store cannot be used.
    """
    mined = Mined()
    tasks: dict[str, list[_Ended]] = {}
    seen = set()
    found = ((run, experiments[run.info.experiment_id]) for run in _found(client, experiments, metric, space))
    for run, experiment in chain(named, found):  # no more than a page at a time
        if run.info.run_id in seen:  # named as well, or found twice
            continue
        seen.add(run.info.run_id)
        try:
            ended = _ended(run, _task(run, experiment), metric, space)
        except ConfigError as error:
            mined.skipped[why_outside(error, space)] += 1
        else:
            tasks.setdefault(ended.task, []).append(ended)
    sign = -1.0 if mode == "max" else 1.0
    for task, runs in _few(tasks, sign, mined.skipped).items():
        mined.run_ids.extend(run.run_id for run in runs)
        mined.records.extend(_records(client, runs, _free(task, taken), metric, sign, mined.skipped))
    return mined


def usable(run: Run, metric: str) -> bool:
    """Whether a run is plain, has ended, and has a value of the metric."""
    data = run.data
    return "hpo.kind" not in data.tags and run.info.status in _STATUSES and metric in data.metrics


def _found(
    client: MlflowClient, experiments: Mapping[str, str], metric: str, space: SearchSpace
) -> Iterator[Run]:
    """Yield the runs that have the metric and a param of the space, the latest first; some come twice.

    Those that lack a param come only from among the 1,000 latest runs, so that they can be told of; of a
    server that is full of other things not all is transferred.
    """
    if not experiments or not _METRIC.fullmatch(metric):
        return
    needed = [name for name, parameter in space.items() if not parameter.when]
    # a filter cannot ask whether there is a metric; unlike all other comparisons, != is true of NaN
    has_metric = f"metrics.`{metric}` != {_UNUSED}"
    ended = [f"attributes.status != '{status}'" for status in ("RUNNING", "SCHEDULED", "KILLED")]
    wide = [has_metric, *ended, "tags.`hpo.kind` IS NULL"]
    narrow = [*wide, *(f"params.`{name}` IS NOT NULL" for name in needed)]
    latest = _page(client, experiments, wide)
    yield from (run for run in latest if any(name in run.data.params for name in space))
    whole = not latest.token
    token: str | None = None
    while not whole:
        page = _page(client, experiments, narrow, token)
        yield from page
        token = page.token
        whole = not token


def _page(
    client: MlflowClient, experiments: Iterable[str], filters: Iterable[str], token: str | None = None
) -> PagedList[Run]:
    page: PagedList[Run] = ask(
        "MLFLOW_TRACKING_URI: cannot list the runs",
        client.search_runs,
        list(experiments),
        " and ".join(filters),
        max_results=_PAGE,
        page_token=token,
    )
    return page


def _ended(run: Run, task: str, metric: str, space: SearchSpace) -> _Ended:
    """Return what is kept of a run; raises ConfigError if `space` does not contain its configuration."""
    config = space.validate(_config(run.data.params, space))
    # run.data.metrics knows no steps, and a history is a request
    last = next(each for each in run.data.to_proto().metrics if each.key == metric)
    crashed = run.info.status == "FAILED"
    return _Ended(run.info.run_id, task, config, _value(last.value), last.step, crashed)


def _config(texts: Mapping[str, str], space: SearchSpace) -> dict[str, Any]:
    """Return the params that are active in `space`, as text where it cannot read them."""
    config: dict[str, Any] = {}
    for name, parameter in space.items():
        if name in texts and parameter.is_active(config):
            try:
                config[name] = parameter.parse(texts[name])
            except ConfigError:
                config[name] = texts[name]
    return config


def _task(run: Run, experiment: str) -> str:
    """Return the name of a run's task."""
    inputs = run.inputs.dataset_inputs if run.inputs else []
    training = [
        each
        for each in inputs
        if any(tag.key == MLFLOW_DATASET_CONTEXT and tag.value in ("training", "train") for tag in each.tags)
    ]
    names = sorted({f"{each.dataset.name}@{each.dataset.digest}" for each in training or inputs})
    name = f"plain runs on {' + '.join(names)}" if names else f"plain runs in {experiment}"
    if len(name) <= _LONGEST:
        return name
    return f"{name[:_LONGEST]}...{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _free(task: str, taken: Collection[str]) -> str:
    """Return the name of a task, made another one where a study's task has it."""
    while task in taken:
        task += "'"
    return task


def _few(tasks: Mapping[str, list[_Ended]], sign: float, skipped: Counter[str]) -> dict[str, list[_Ended]]:
    """Return not too many tasks, with not too many runs each; of these, the same again."""
    kept = dict(list(tasks.items())[:_MOST_TASKS])
    share = min(_MOST_OF_TASK, _MOST // max(len(kept), 1))
    chosen = {task: _picked(runs, share, sign) for task, runs in kept.items()}
    skipped[f"beyond the {share} plain runs of a task"] += sum(
        len(runs) - len(chosen[task]) for task, runs in kept.items()
    )
    skipped[f"beyond the {_MOST_TASKS} latest tasks of plain runs"] += sum(
        len(runs) for task, runs in tasks.items() if task not in kept
    )
    return chosen


def _picked(runs: Sequence[_Ended], most: int, sign: float) -> list[_Ended]:
    """Return the best runs, and others evenly spread over the rest, in the order that they have."""
    if len(runs) <= most:
        return list(runs)
    order = sorted(runs, key=lambda run: (run.loss(sign), run.run_id))
    best, rest = order[: most // 2], order[most // 2 :]
    others = most - len(best)
    spread = [rest[at * (len(rest) - 1) // max(others - 1, 1)] for at in range(others)]
    picked = {run.run_id for run in (*best, *spread)}
    return [run for run in runs if run.run_id in picked]


def _records(
    client: MlflowClient,
    runs: Sequence[_Ended],
    task: str,
    metric: str,
    sign: float,
    skipped: Counter[str],
) -> Iterator[dict[str, Any]]:
    """Yield the records of a task's runs; those beyond 100 have one value."""
    curves = {run.run_id: _curve(client, run, metric) for run in _picked(runs, _MOST_CURVES, sign)}
    epochs = _Epochs(list(curves.values()))
    for run in runs:
        curve = epochs.of(curves[run.run_id]) if run.run_id in curves else epochs.of_last(run)
        if curve is None:
            skipped["plain runs whose epochs are not known"] += 1
            continue
        yield {
            "task": task,
            "run_id": run.run_id,
            "config": run.config,
            "curve": curve,
            "failed": run.crashed or not math.isfinite(curve[-1][1]),
        }


class _Epochs:
    """What the steps of a task mean.

    Args:
        curves: of its runs, at least one.
    """

    def __init__(self, curves: Sequence[Sequence[_Point]]) -> None:
        self._shift = Counter(_shift(curve) for curve in curves).most_common(1)[0][0]
        ends = [curve[-1].step + _shift(curve) for curve in curves]
        counts = [curve[-1].number for curve in curves]
        self._numbered = statistics.median(map(truediv, ends, counts)) > _EPOCH
        self._once = max(counts) == 1
        self._far = _FAR * statistics.median(ends)

    def of(self, curve: Sequence[_Point]) -> list[tuple[int, float]] | None:
        """Return a curve as (epoch, value); None where its steps are none of this task."""
        if self._numbered:
            return [(point.number, point.value) for point in curve]
        shift = _shift(curve)
        return self._near([(point.step + shift, point.value) for point in curve])

    def of_last(self, run: _Ended) -> list[tuple[int, float]] | None:
        """Return the last value of a run whose curve was not read; None where its epoch is not known."""
        if self._numbered:
            return [(1, run.last)] if self._once else None
        return self._near([(max(run.step + self._shift, 1), run.last)])

    def _near(self, curve: list[tuple[int, float]]) -> list[tuple[int, float]] | None:
        """Return a curve unless it ends so far out that the others would be a point beside it."""
        return curve if curve[-1][0] <= self._far else None


def _shift(curve: Sequence[_Point]) -> int:
    """Return by how much steps are moved up so that the first is 1 or more."""
    return max(1 - curve[0].step, 0)


def _curve(client: MlflowClient, run: _Ended, metric: str) -> list[_Point]:
    """Return the values by ascending step, at least one."""
    alone = [_Point(run.step, 1, run.last)]
    if run.step == 0:  # as this is the last step, the metric was logged without steps: no need to ask
        return alone
    logged = ask(
        "MLFLOW_TRACKING_URI: cannot read the metric of a run", client.get_metric_history, run.run_id, metric
    )
    return _thinned(_points(logged)) or alone


def _points(logged: Iterable[Metric]) -> list[_Point]:
    """Return the values by ascending step, of each step the last by time."""
    last = {each.step: each.value for each in sorted(logged, key=lambda each: each.timestamp)}
    return [_Point(step, number, _value(last[step])) for number, step in enumerate(sorted(last), 1)]


def _thinned(points: list[_Point]) -> list[_Point]:
    """Return not too many points, evenly spread, with the first and the last."""
    if len(points) <= _MOST_POINTS:
        return points
    return [points[at * (len(points) - 1) // (_MOST_POINTS - 1)] for at in range(_MOST_POINTS)]


def _value(value: float) -> float:
    """Return a value as it was before MLflow stored it."""
    return value if abs(value) < _INFINITE or math.isnan(value) else math.copysign(math.inf, value)
