"""Mining: the history that MLflow holds."""

from __future__ import annotations

import gc
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import mlflow
from mlflow.entities import Experiment, Run, ViewType
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from mlflow_hpo.errors import ConfigError, StudyError
from mlflow_hpo.metalearning.cache import Cache, cache_folder
from mlflow_hpo.metalearning.features import task_features
from mlflow_hpo.metalearning.history import History
from mlflow_hpo.metalearning.lookup import runs_by_id
from mlflow_hpo.metalearning.mined import DAMAGED, Mined, read
from mlflow_hpo.metalearning.places import PlaceAwayError
from mlflow_hpo.metalearning.plain_listing import usable
from mlflow_hpo.metalearning.plain_runs import plain_runs
from mlflow_hpo.metalearning.rules import Rules
from mlflow_hpo.metalearning.written import written
from mlflow_hpo.space import SearchSpace
from mlflow_hpo.tracking.connect import ask, ask_all, connect, store_name
from mlflow_hpo.tracking.history import WRITTEN

_PAGE = 1000  # runs a request
_FEW = 4  # runs that are named one by one; more of them are looked up together
_RUN_ID = re.compile(r"[A-Za-z0-9][\w\-]{0,255}", re.ASCII)
_DAMAGED_HISTORY = "studies whose history is damaged"
RUNS = "runs:/"  # begins the name of a single study or plain run
GONE = "sources that are no longer there"  # why something is left out


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Stop looking for garbage: of a million small objects none is, and it would take half of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@_without_garbage_collection()
def mine(
    sources: Sequence[str] | None,
    *,
    metric: str,
    mode: str,
    space: SearchSpace,
    rules: Rules,
    own: str = "",
) -> History:
    """Return what `History.from_mlflow` promises.

    Args:
        sources, metric, mode, space, rules: as there.
        own: run id of the study that asks; it is none of its own sources.
    """
    client = connect()
    named = _named_runs(client, [source for source in sources or () if source.startswith(RUNS)], metric)
    names = None if sources is None else [source for source in sources if not source.startswith(RUNS)]
    asking = _Asking(client, metric, mode, space, rules, own)
    studies, plain = asking.read(named, _experiments(client, names))
    for run, _ in named:
        if run.info.run_id in studies.unread:
            raise studies.unread[run.info.run_id]
    if (
        sources is not None
        and studies.unread
        and not (studies.run_ids or studies.skipped[_DAMAGED_HISTORY] or plain.run_ids)
    ):
        raise next(iter(studies.unread.values()))
    return asking.history(studies, plain)


@_without_garbage_collection()
def mine_again(
    sources: Sequence[str], *, metric: str, mode: str, space: SearchSpace, rules: Rules, own: str
) -> History:
    """Return what sources that a study began with hold now; those that are gone are counted, and no error.

    Args:
        sources, metric, mode, space, rules: as `mine` took them.
        own: run id of that study.

    Raises:
        StudyError: the tracking store cannot be used.
    """
    client = connect()
    run_ids = [source.removeprefix(RUNS) for source in sources if source.startswith(RUNS)]
    names = [source for source in sources if not source.startswith(RUNS)]
    runs = [run for run in _found_runs(client, run_ids, metric) if run is not None]
    experiments = [found for name in names if (found := _active(client, name)) is not None]
    asking = _Asking(client, metric, mode, space, rules, own)
    studies, plain = asking.read(runs, {found.experiment_id: found.name for found in experiments})
    plain.skipped[GONE] += len(sources) - len(runs) - len(experiments)
    return asking.history(studies, plain)


@dataclass(frozen=True, slots=True)
class _Asking:
    """Whose history is asked for; as `mine` takes it."""

    client: MlflowClient
    metric: str
    mode: str
    space: SearchSpace
    rules: Rules
    own: str

    def read(self, named: Sequence[tuple[Run, str]], experiments: Mapping[str, str]) -> tuple[Mined, Mined]:
        """Return what is known of studies, and of plain runs.

        Args:
            named: runs to use, with the names of their experiments.
            experiments: name by id, of those to look for more in.
        """
        with Cache(store_name(mlflow.get_tracking_uri()), cache_folder()) as cache:
            studies = self._of_studies(_studies(self.client, named, experiments), cache)
            plain = plain_runs(
                self.client,
                [(run, experiment) for run, experiment in named if not _is_study(run)],
                experiments,
                metric=self.metric,
                mode=self.mode,
                space=self.space,
                rules=self.rules,
                cache=cache,
                taken={record["task"] for record in studies.records if record},
            )
        return studies, plain

    def history(self, studies: Mined, plain: Mined) -> History:
        """Return both as a history."""
        return History.mined(
            [*studies.records, *plain.records],
            mode=self.mode,
            skipped=studies.skipped + plain.skipped,
            studies=studies.run_ids,
            runs=plain.run_ids,
        ).within(self.space)

    def _of_studies(self, studies: Iterable[tuple[Run, str]], cache: Cache) -> Mined:
        """Read what the studies wrote down."""
        mined = Mined()
        wanted = []
        for parent, experiment in studies:
            tags = parent.data.tags
            if parent.info.run_id == self.own:
                continue
            if (tags.get("hpo.metric"), tags.get("hpo.mode")) != (self.metric, self.mode):
                mined.skipped["studies of another metric"] += 1
            elif WRITTEN not in tags:
                mined.skipped["studies without a history"] += 1
            else:
                wanted.append((parent, experiment))
        with closing(written([parent for parent, _ in wanted], cache)) as told:
            for (parent, experiment), found in zip(wanted, told, strict=True):
                if isinstance(found, StudyError):
                    mined.unread[parent.info.run_id] = found
                    mined.skipped[_why_unread(found)] += 1
                elif isinstance(found, Exception):
                    mined.skipped[_DAMAGED_HISTORY] += 1
                else:
                    mined.run_ids.append(parent.info.run_id)
                    task = _task(parent.data.tags, found.facts, experiment)
                    features = task_features(found.facts)
                    mined.records.extend(_records(found.trials, task, features, self.space, self.rules))
        return mined


def _why_unread(error: StudyError) -> str:
    if isinstance(error, PlaceAwayError):
        return f"studies in {error.place!r:.100}, which does not answer"
    return "studies whose history cannot be read"


def _studies(
    client: MlflowClient, named: Sequence[tuple[Run, str]], experiments: Mapping[str, str]
) -> Iterator[tuple[Run, str]]:
    """Yield the parent runs with the names of their experiments: the named ones, then the latest first."""
    single = {run.info.run_id: (run, experiment) for run, experiment in named if _is_study(run)}
    yield from single.values()
    for parent in _parents(client, list(experiments)):
        if parent.info.run_id not in single:
            yield parent, experiments[parent.info.experiment_id]


def _is_study(run: Run) -> bool:
    return run.data.tags.get("hpo.kind") == "study"


def _named_runs(client: MlflowClient, sources: Sequence[str], metric: str) -> list[tuple[Run, str]]:
    """Return the studies and plain runs that `sources` name, with the names of their experiments."""
    run_ids = [source.removeprefix(RUNS) for source in sources]
    named = []
    for run_id, found in zip(run_ids, _found_runs(client, run_ids, metric), strict=True):
        if found is None:
            raise ConfigError(
                "warm_start",
                f"there is no study {RUNS + run_id!r:.100}, nor such a run that ended with {metric!r:.100}",
            )
        named.append(found)
    return named


def _found_runs(
    client: MlflowClient, run_ids: Sequence[str], metric: str
) -> Iterator[tuple[Run, str] | None]:
    """Yield the studies and plain runs with the names of their experiments, None where there is none."""
    known = _looked_up(client, run_ids)
    for run_id in run_ids:
        yield _single(client, run_id, metric, known.get(run_id))


def _looked_up(client: MlflowClient, run_ids: Sequence[str]) -> dict[str, tuple[Run, str]]:
    """Return what there is of the runs in active experiments, many in a request."""
    wanted = [run_id for run_id in run_ids if _RUN_ID.fullmatch(run_id)]
    if len(wanted) < _FEW:
        return {}
    experiments = _experiments(client, None)
    found = runs_by_id(client, list(experiments), wanted)
    return {run_id: (run, experiments[run.info.experiment_id]) for run_id, run in found.items()}


def _single(
    client: MlflowClient, run_id: str, metric: str, known: tuple[Run, str] | None
) -> tuple[Run, str] | None:
    """Return a study or plain run with the name of its experiment, None where there is none.

    `known` saves the requests for them.
    """
    if known:
        run: Run | None = known[0]
    else:
        run = ask("MLFLOW_TRACKING_URI: cannot read a study or run", _found, client.get_run, run_id)
    if run is None or not (_is_study(run) or usable(run, metric)):
        return None
    if known:
        return known
    experiment = ask(
        "MLFLOW_TRACKING_URI: cannot look up an experiment", client.get_experiment, run.info.experiment_id
    )
    return run, experiment.name


def _found(get: Callable[[str], Run], run_id: str) -> Run | None:
    """Return the run, None where there is none."""
    try:
        return get(run_id)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def _experiments(client: MlflowClient, names: Sequence[str] | None) -> dict[str, str]:
    """Return the names of the experiments by id."""
    if names is not None:
        return {_named(client, name).experiment_id: name for name in names}
    listed = ask_all(
        "MLFLOW_TRACKING_URI: cannot list the experiments",
        client.search_experiments,
        view_type=ViewType.ACTIVE_ONLY,
        max_results=_PAGE,
    )
    return {experiment.experiment_id: experiment.name for experiment in listed}


def _named(client: MlflowClient, name: str) -> Experiment:
    experiment = _active(client, name)
    if experiment is None:
        raise ConfigError("warm_start", f"there is no active experiment {name!r:.100}")
    return experiment


def _active(client: MlflowClient, name: str) -> Experiment | None:
    """Return an experiment, None where there is no active one of that name."""
    found = ask("MLFLOW_TRACKING_URI: cannot look up an experiment", client.get_experiment_by_name, name)
    return None if found is None or found.lifecycle_stage != "active" else found


def _parents(client: MlflowClient, experiments: list[str]) -> Iterator[Run]:
    """Yield the parent runs, the latest first."""
    if experiments:
        yield from ask_all(
            "MLFLOW_TRACKING_URI: cannot list the studies",
            client.search_runs,
            experiments,
            "tags.`hpo.kind` = 'study'",
            max_results=_PAGE,
        )


def _records(
    trials: list[Any], task: str, features: Mapping[str, float], space: SearchSpace, rules: Rules
) -> Iterator[dict[str, Any]]:
    """Yield a record for `History.mined` of each trial; what cannot be read makes one that is malformed."""
    for trial in trials:
        try:
            yield {
                "task": task,
                "features": features,
                "run_id": str(trial["run_id"]),
                "config": _config(rules.renamed(dict(trial["params"])), space),
                "curve": trial["curve"],
                "failed": trial["failed"],
            }
        except DAMAGED:
            yield {}


def _task(tags: Mapping[str, str], facts: Mapping[str, Any], experiment: str) -> str:
    """Return a name that is the same for studies of the same data, and of no others.

    Where the training does not tell the digest of its data, its name is taken to mean the same within an
    experiment only.

    >>> _task({"hpo.task": "houses.csv"}, {"target": "price", "data.sha256": "0123456789abcdef"}, "Default")
    'houses.csv:price@01234567'
    >>> _task({"hpo.task": "train"}, {}, "flats")
    'train in flats'
    """
    name = tags.get("hpo.task") or "unnamed"
    target = f":{facts['target']}" if facts.get("target") else ""
    if facts.get("data.sha256"):
        return f"{name}{target}@{str(facts['data.sha256'])[:8]}"
    return f"{name}{target} in {experiment}"


def _config(texts: Mapping[str, str], space: SearchSpace) -> dict[str, Any]:
    """Return params as values where `space` can read them, and else as the text that they are."""
    # of what stays text, `History.within` says why it is left out
    return {name: read(space[name], text) if name in space else text for name, text in texts.items()}
