"""Plain runs: what scripts that know nothing of this package logged to MLflow, as history."""

from __future__ import annotations

import functools
import hashlib
import math
import statistics
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from mlflow_hpo.errors import ConfigError
from mlflow_hpo.metalearning.cache import Cache
from mlflow_hpo.metalearning.history import why_outside
from mlflow_hpo.metalearning.mined import Mined, read
from mlflow_hpo.metalearning.plain_curves import Epochs, plain_curves
from mlflow_hpo.metalearning.plain_listing import PlainListing, PlainRun
from mlflow_hpo.metalearning.rules import Rules
from mlflow_hpo.space import Config, SearchSpace
from mlflow_hpo.tracking.logged import logged_value

_MOST = 1000  # runs in all; a study records each of them
_MOST_TASKS = 50  # the latest ones; a portfolio looks at no more
_MOST_OF_TASK = 250  # runs; the model of a task sees as many values
_MOST_CURVES = 100  # of a task; each is a request
_LONGEST = 200  # characters of a task's name


@dataclass(frozen=True, slots=True)
class _Ended:
    """A run with its configuration."""

    run: PlainRun
    task: str
    config: Config

    def loss(self, sign: float, usual: float) -> float:
        """Return what sorts runs, the best first; `usual` is the step at which those of the task end."""
        sound = math.isfinite(logged_value(self.run.last)) and not _cut_short(self.run, self.run.step, usual)
        return sign * self.run.last if sound else math.inf


def plain_runs(
    client: MlflowClient,
    named: Iterable[tuple[Run, str]],
    experiments: Mapping[str, str],
    *,
    metric: str,
    mode: str,
    space: SearchSpace,
    rules: Rules,
    cache: Cache,
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
    if none was. Runs without datasets are a task of their experiment. `rules` may say otherwise.

    Epochs are steps, moved up where they begin below 1. Where the values of a task's curves stand more than
    100 steps apart (the median), its steps count something else, and values are numbered instead. A step's
    value is its last by time.

    A run whose last value is not finite has diverged, which is a failure. So has one come to nothing that
    FAILED, unless its curve is as long as those of its task that FINISHED (their median): such a run had been
    trained when it was stopped by hand, or its last upload failed.

    At most 1,000 runs are used, of the 50 latest tasks, and at most 250 of one: half of them the best, the
    others evenly spread over the rest. Curves are read of 100 of a task; the others have only their last
    value.

    Which runs there are is remembered for a day: the next time the latest 250 are listed again, and of the
    others only those are asked for that began or ended since then, and those that are used, so that what was
    deleted or changed is not.

    Args:
        client: of the store.
        named: runs to use, with the names of their experiments.
        experiments: name by id, of those to look for more in.
        metric, mode: what is optimised.
        space: what the configurations are from.
        rules: what parameters may be called, and what tells a task.
        cache: of what was read before.
        taken: names that tasks must not have.

    Raises:
        StudyError: the store cannot be used.
    """
    sign = -1.0 if mode == "max" else 1.0
    single = {
        run.info.run_id: (PlainRun.of(run, metric, space, rules), experiment) for run, experiment in named
    }
    listing = PlainListing(client, experiments, metric, space, rules, cache)

    @functools.cache  # of fifty thousand runs few change when they are confirmed
    def judged(run: PlainRun, experiment: str) -> _Ended | str:
        try:
            return _Ended(run, _task(run, experiment), space.validate(_config(dict(run.params), space)))
        except ConfigError as error:
            return why_outside(error, space)

    while True:
        mined = Mined()
        listed = ((run, experiments[run.experiment_id]) for run in listing if run.run_id not in single)
        tasks: dict[str, list[_Ended]] = {}
        for run, experiment in chain(single.values(), listed):
            found = judged(run, experiment)
            if isinstance(found, str):
                mined.skipped[found] += 1
            else:
                tasks.setdefault(found.task, []).append(found)
        chosen = _few(tasks, sign, mined.skipped)
        run_ids = [each.run.run_id for runs in chosen.values() for each in runs]
        if listing.confirm(run_id for run_id in run_ids if run_id not in single):
            break
    listing.keep()
    mined.run_ids.extend(run_ids)
    to_read = {task: _picked(runs, _MOST_CURVES, sign) for task, runs in chosen.items()}
    curves = plain_curves(client, [each.run for runs in to_read.values() for each in runs], metric, cache)
    for task, runs in chosen.items():
        epochs = Epochs([curves[each.run.run_id] for each in to_read[task]])
        mined.records.extend(_records(runs, _free(task, taken), curves, epochs, mined.skipped))
    return mined


def _config(texts: Mapping[str, str], space: SearchSpace) -> dict[str, Any]:
    """Return the params that are active in `space`, as text where it cannot read them."""
    config: dict[str, Any] = {}
    for name, parameter in space.items():
        if name in texts and parameter.is_active(config):
            config[name] = read(parameter, texts[name])
    return config


def _task(run: PlainRun, experiment: str) -> str:
    """Return the name of a run's task."""
    name = f"plain runs on {run.data}" if run.data else f"plain runs in {experiment}"
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
    usual = _usual_end((each.run, each.run.step, each.run.last) for each in runs)
    order = sorted(runs, key=lambda each: (each.loss(sign, usual), each.run.run_id))
    best, rest = order[: most // 2], order[most // 2 :]
    others = most - len(best)
    spread = [rest[at * (len(rest) - 1) // max(others - 1, 1)] for at in range(others)]
    picked = {each.run.run_id for each in (*best, *spread)}
    return [each for each in runs if each.run.run_id in picked]


def _usual_end(ended: Iterable[tuple[PlainRun, int, float]]) -> float:
    """Return where the runs of a task end that FINISHED, infinity if none did.

    Args:
        ended: runs with the steps or epochs at which they end, and their values there.
    """
    finished = [end for run, end, value in ended if not run.crashed and math.isfinite(logged_value(value))]
    return statistics.median(finished) if finished else math.inf


def _cut_short(run: PlainRun, end: int, usual: float) -> bool:
    """Whether a run crashed before its training was over, as far as the others of its task tell."""
    return run.crashed and end < usual


def _records(
    runs: Sequence[_Ended],
    task: str,
    curves: Mapping[str, Any],
    epochs: Epochs,
    skipped: Counter[str],
) -> Iterator[dict[str, Any]]:
    """Yield the records of a task's runs; those whose curves were not read have one value."""
    known = []
    for each in runs:
        run = each.run
        curve = epochs.of(curves[run.run_id]) if run.run_id in curves else epochs.of_last(run)
        if curve is None:
            skipped["plain runs whose epochs are not known"] += 1
        else:
            known.append((each, curve))
    usual = _usual_end((each.run, *curve[-1]) for each, curve in known)
    for each, curve in known:
        end, value = curve[-1]
        yield {
            "task": task,
            "run_id": each.run.run_id,
            "config": each.config,
            "curve": curve,
            "failed": _cut_short(each.run, end, usual) or not math.isfinite(value),
        }
