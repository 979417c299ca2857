"""Which plain runs there are: listed from several spans of time at once, and then only what is new."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any, NamedTuple

from mlflow.entities import Run
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

from mlflow_hpo.metalearning.cache import Cache
from mlflow_hpo.metalearning.lookup import runs_by_id
from mlflow_hpo.metalearning.mined import DAMAGED
from mlflow_hpo.metalearning.rules import Rules
from mlflow_hpo.space import SearchSpace
from mlflow_hpo.tracking.connect import ask, ask_all

_PROBLEM = "MLFLOW_TRACKING_URI: cannot list the runs"
_PAGE = 1000  # runs a request
_SPANS = 16  # of time, of which ...
_LISTERS = 4  # ... so many are listed at once
_UNUSED = "1.5e308"  # a value that no run has
_METRIC = re.compile(r"[\w.\- :/]+")  # what MLflow takes for a metric's name
_STATUSES = ("FINISHED", "FAILED")
_LATE = 3_600_000  # milliseconds: a run may be seen so long after it ended by the clock of its machine
_WEEK = 7 * 86_400_000  # milliseconds; then an experiment is listed anew, for what was entered with old times
_SCHEMA = "1"


class PlainRun(NamedTuple):
    """What is kept of a run.

    Attributes:
        started: milliseconds.
        state: changes when the run is written to again.
        crashed: it ended as FAILED.
        data: what tells its task, such as names and digests of its datasets; "" if nothing does.
        last, step: the last value of the metric, and where it stands.
        params: names and texts, of the parameters of the space.
    """

    run_id: str
    experiment_id: str
    started: int
    state: str
    crashed: bool
    data: str
    last: float
    step: int
    params: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, run: Run, metric: str, space: SearchSpace, rules: Rules) -> PlainRun:
        """Return what is kept of a `usable` run."""
        info, texts, told = run.info, rules.renamed(run.data.params), rules.told(run)
        # run.data.metrics knows no steps, and a history is a request
        last = next(each for each in run.data.to_proto().metrics if each.key == metric)
        return cls(
            run_id=info.run_id,
            experiment_id=info.experiment_id,
            started=info.start_time or 0,
            state=f"{info.end_time} {info.status}",
            crashed=info.status == "FAILED",
            data=_data(run) if told is None else told,
            last=last.value,
            step=last.step,
            params=tuple((name, texts[name]) for name in space if name in texts),
        )

    @classmethod
    def remembered(cls, kept: Sequence[Any]) -> PlainRun:
        """Return a run that JSON made a list of; raises one of `DAMAGED` where it did not."""
        run_id, experiment_id, started, state, crashed, data, last, step, params = kept
        texts = tuple((str(name), str(text)) for name, text in params)
        where = str(run_id), str(experiment_id), int(started), str(state)
        return cls(*where, bool(crashed), str(data), float(last), int(step), texts)


def usable(run: Run, metric: str) -> bool:
    """Whether a run is plain, has ended, and has a value of the metric."""
    data = run.data
    return "hpo.kind" not in data.tags and run.info.status in _STATUSES and metric in data.metrics


def _data(run: Run) -> str:
    inputs = run.inputs.dataset_inputs if run.inputs else []
    training = [
        each
        for each in inputs
        if any(tag.key == MLFLOW_DATASET_CONTEXT and tag.value in ("training", "train") for tag in each.tags)
    ]
    return " + ".join(sorted({f"{each.dataset.name}@{each.dataset.digest}" for each in training or inputs}))


class PlainListing:
    """The plain runs of some experiments that have a metric and a param of a space.

    Runs that lack a param of the space come only from among the latest 1,000, so that they can be told of; of
    a server that is full of other things not all is transferred. Of an experiment that was listed less than a
    week ago only what ended since then is asked for; so that what is remembered of a run may be out of date,
    until it is confirmed.

    Args:
        client: of the store.
        experiments: their ids.
        metric: its name.
        space: what the params are from.
        rules: what they may be called, and what tells a task.
        cache: where the listing is kept.

    Raises:
        StudyError: the store cannot be used.
    """

    def __init__(
        self,
        client: MlflowClient,
        experiments: Iterable[str],
        metric: str,
        space: SearchSpace,
        rules: Rules,
        cache: Cache,
    ) -> None:
        self._client = client
        self._metric = metric
        self._space = space
        self._rules = rules
        self._cache = cache
        self._begin = int(time.time() * 1000)
        self._listed: dict[str, int] = {}  # when each experiment was listed whole
        self._runs: dict[str, PlainRun] = {}
        self._sure: set[str] = set()  # runs as the server has them now
        if not _METRIC.fullmatch(metric):
            return
        asked: dict[str, int] = {}  # when known experiments were asked for the last time
        for experiment in experiments:
            self._listed[experiment] = self._begin
            if (at := self._remember(experiment)) is not None:
                asked[experiment] = at
        new = [experiment for experiment in self._listed if experiment not in asked]
        self._look(new, None)
        self._look(list(asked), min(asked.values(), default=0) - _LATE)

    def __iter__(self) -> Iterator[PlainRun]:
        """Yield the runs, the latest first."""
        return iter(sorted(self._runs.values(), key=lambda run: (-run.started, run.run_id)))

    def confirm(self, run_ids: Iterable[str]) -> bool:
        """Ask the server for runs that are only remembered; return whether all are as they were."""
        unsure = [run_id for run_id in run_ids if run_id not in self._sure]
        found = runs_by_id(self._client, list(self._listed), unsure)
        before = [self._runs[run_id] for run_id in unsure]
        for run_id in unsure:
            run = found.get(run_id)
            if run is not None and usable(run, self._metric):
                self._add([run])
            else:
                del self._runs[run_id]
        return before == [self._runs.get(run_id) for run_id in unsure]

    def keep(self) -> None:
        """Remember the runs for the next time."""
        kept: dict[str, list[PlainRun]] = {experiment: [] for experiment in self._listed}
        for run in self._runs.values():
            kept[run.experiment_id].append(run)
        for experiment, runs in kept.items():
            text = {"listed": self._listed[experiment], "asked": self._begin, "runs": runs}
            self._cache.put(self._key(experiment), _SCHEMA, json.dumps(text, separators=(",", ":")))

    def _remember(self, experiment: str) -> int | None:
        """Take what is remembered of an experiment; return when it was asked for, None if it was not."""
        text = self._cache.get(self._key(experiment), _SCHEMA)
        if text is None:
            return None
        try:
            known = json.loads(text)
            listed, asked = int(known["listed"]), int(known["asked"])
            runs = [PlainRun.remembered(kept) for kept in known["runs"]]
        except DAMAGED:
            return None
        if not self._begin - _WEEK < listed <= asked <= self._begin:
            return None
        self._listed[experiment] = listed
        self._runs |= {run.run_id: run for run in runs}
        return asked

    def _key(self, experiment: str) -> str:
        rules = [dict(self._rules.rename), self._rules.task]
        told = json.dumps([experiment, self._metric, list(self._space), self._needed, rules])
        return f"plain runs {hashlib.sha256(told.encode()).hexdigest()}"

    def _add(self, runs: Iterable[Run]) -> None:
        self._take(PlainRun.of(run, self._metric, self._space, self._rules) for run in runs)

    def _take(self, runs: Iterable[PlainRun]) -> None:
        for run in runs:
            self._runs[run.run_id] = run
            self._sure.add(run.run_id)

    @property
    def _needed(self) -> list[str]:
        return [name for name, parameter in self._space.items() if not parameter.when]

    def _look(self, experiments: Sequence[str], since: int | None) -> None:
        """Take the runs that ended since a time, None for all."""
        if not experiments:
            return
        # a filter cannot ask whether there is a metric; unlike all other comparisons, != is true of NaN
        has_metric = f"metrics.`{self._metric}` != {_UNUSED}"
        ended = [f"attributes.status != '{status}'" for status in ("RUNNING", "SCHEDULED", "KILLED")]
        wide = [has_metric, *ended, "tags.`hpo.kind` IS NULL"]
        if since is not None:
            wide.append(f"attributes.end_time >= {since}")
        latest = ask(
            _PROBLEM, self._client.search_runs, list(experiments), " and ".join(wide), max_results=_PAGE
        )
        known = {each for name in self._space for each in self._rules.names(name)}
        self._add(run for run in latest if not known.isdisjoint(run.data.params))
        if latest.token:
            # a filter knows no OR: of a parameter that has several names it cannot ask
            sure = [name for name in self._needed if self._rules.names(name) == [name]]
            narrow = [*wide, *(f"params.`{name}` IS NOT NULL" for name in sure)]
            self._look_further(experiments, narrow, until=latest[-1].info.start_time)

    def _look_further(self, experiments: Sequence[str], filters: Sequence[str], *, until: int) -> None:
        """Take the runs that began until a time, from several spans of time at once.

        A server of several processes answers the sooner.
        """
        earliest = ask(
            _PROBLEM,
            self._client.search_runs,
            list(experiments),
            " and ".join(filters),
            max_results=1,
            order_by=["attributes.start_time ASC"],
        )
        if not earliest:
            return
        begin, end = earliest[0].info.start_time, until + 1
        edges = sorted({begin + (end - begin) * span // _SPANS for span in range(_SPANS + 1)})

        def within(span: tuple[int, int]) -> list[PlainRun]:
            began = [f"attributes.start_time >= {span[0]}", f"attributes.start_time < {span[1]}"]
            runs = ask_all(
                _PROBLEM,
                self._client.search_runs,
                list(experiments),
                " and ".join([*filters, *began]),
                max_results=_PAGE,
            )
            return [PlainRun.of(run, self._metric, self._space, self._rules) for run in runs]

        with ThreadPoolExecutor(_LISTERS, thread_name_prefix="mlflow-hpo-listing") as pool:
            for runs in pool.map(within, pairwise(edges)):
                self._take(runs)
