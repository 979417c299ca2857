"""Which plain runs there are: listed from several spans of time at once, then the latest and what is new."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
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
_DAY = 86_400_000  # milliseconds; then an experiment is listed anew, for what no time tells of
_LATEST = 250  # runs that are listed whatever is remembered: most often they are all
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
    a server that is full of other things not all is transferred.

    Of experiments that were listed less than a day ago the latest 250 runs are listed anew, and of the others
    those that began or ended since then. So what is remembered of a run may be out of date, until it is
    confirmed; and of more than 250 runs some may be missed for a day: one that began before and whose end was
    entered without a time, or was restored, or has the metric only since after its end. Where nothing is left
    of what is remembered, another store has taken the place of the one that was known, and all is listed.

    Args:
        client: of the store.
        experiments: name by id.
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
        experiments: Mapping[str, str],
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
        self._names = experiments
        for experiment in experiments:
            self._listed[experiment] = self._begin
            if (at := self._remember(experiment)) is not None:
                asked[experiment] = at
        new = [experiment for experiment in self._listed if experiment not in asked]
        if asked:
            new.extend(self._renew(list(asked), min(asked.values()) - _LATE))
        self._look(new)

    def __iter__(self) -> Iterator[PlainRun]:
        """Yield the runs, the latest first."""
        return iter(sorted(self._runs.values(), key=lambda run: (-run.started, run.run_id)))

    def confirm(self, run_ids: Iterable[str]) -> bool:
        """Ask the server for runs that are only remembered; return whether all are as they were."""
        unsure = [run_id for run_id in run_ids if run_id not in self._sure]
        found = runs_by_id(self._client, list(self._listed), unsure)
        before = [self._runs[run_id] for run_id in unsure]
        there = {run.info.experiment_id for run in found.values()}
        strange = {run.experiment_id for run in before} - there  # of another store, as it seems
        for run_id in unsure:
            run = found.get(run_id)
            if run is not None and usable(run, self._metric):
                self._add([run])
            else:
                del self._runs[run_id]
        self._forget(strange)
        self._look(list(strange))
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
        if not self._begin - _DAY < listed <= asked <= self._begin:
            return None
        self._listed[experiment] = listed
        self._runs |= {run.run_id: run for run in runs}
        return asked

    def _key(self, experiment: str) -> str:
        rules = [dict(self._rules.rename), self._rules.task]
        told = json.dumps(
            [experiment, self._names[experiment], self._metric, list(self._space), self._needed, rules]
        )
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

    @property
    def _ended(self) -> list[str]:
        """What a filter can ask of plain runs that have ended with the metric."""
        # it cannot ask whether there is a metric; unlike all other comparisons, != is true of NaN
        has_metric = f"metrics.`{self._metric}` != {_UNUSED}"
        ended = [f"attributes.status != '{status}'" for status in ("RUNNING", "SCHEDULED", "KILLED")]
        return [has_metric, *ended, "tags.`hpo.kind` IS NULL"]

    def _renew(self, experiments: Sequence[str], since: int) -> set[str]:
        """Take the latest runs of known experiments, and of the others what began or ended since a time.

        Returns:
            those that have to be listed as new ones, as it is another store than the one that is known.
        """
        known = list(self._runs.values())
        start = self._take_latest(experiments)
        if start is None:  # that was all
            self._listed |= dict.fromkeys(experiments, self._begin)
            return set()
        expected = {run.experiment_id for run in known if run.started >= start}
        there = {run.experiment_id for run in known if run.started >= start and run.run_id in self._sure}
        strange = set(experiments) - there if expected - there else set()
        self._forget(strange)
        others = [experiment for experiment in experiments if experiment not in strange]
        if since < start:
            self._look(others, [f"attributes.start_time >= {since}", f"attributes.start_time < {start}"])
        began = f"attributes.start_time < {min(since, start)}"
        self._look(others, [f"attributes.end_time >= {since}", began])
        return strange

    def _take_latest(self, experiments: Sequence[str]) -> int | None:
        """Take the latest runs instead of those remembered; return since when they began, None for all."""
        remembered = sorted((run.started for run in self._runs.values()), reverse=True)
        start = remembered[_LATEST - 1] if len(remembered) >= _LATEST else None
        filters = list(self._ended)
        if start is not None:  # saves the server from sorting all
            filters.append(f"attributes.start_time >= {start}")
        latest = ask(
            _PROBLEM, self._client.search_runs, list(experiments), " and ".join(filters), max_results=_LATEST
        )
        if latest.token:  # of those that began with the last one not all may be there
            start = (latest[-1].info.start_time or 0) + 1
        self._runs = {
            run_id: run for run_id, run in self._runs.items() if start is not None and run.started < start
        }
        self._add(self._related(latest))
        return start

    def _forget(self, experiments: Collection[str]) -> None:
        """Begin experiments anew."""
        self._runs = {
            run_id: run for run_id, run in self._runs.items() if run.experiment_id not in experiments
        }
        self._listed |= dict.fromkeys(experiments, self._begin)

    def _related(self, runs: Iterable[Run]) -> Iterator[Run]:
        """Yield the runs that have any param of the space; others are other things."""
        known = {each for name in self._space for each in self._rules.names(name)}
        return (run for run in runs if not known.isdisjoint(run.data.params))

    def _look(self, experiments: Sequence[str], within: Sequence[str] = ()) -> None:
        """Take the runs, or those of them that pass some filters."""
        if not experiments:
            return
        wide = [*self._ended, *within]
        latest = ask(
            _PROBLEM, self._client.search_runs, list(experiments), " and ".join(wide), max_results=_PAGE
        )
        self._add(self._related(latest))
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
