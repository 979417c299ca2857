"""Resumption: what a study that goes on takes over from its record, and what may be other than before."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from mlflow_hpo.bookkeeper import Bookkeeper
from mlflow_hpo.config import StudyConfig
from mlflow_hpo.constraints import violations
from mlflow_hpo.errors import ConfigError
from mlflow_hpo.launchers.base import Launcher
from mlflow_hpo.launchers.replay import ReplayLauncher
from mlflow_hpo.optimizer import Optimizer
from mlflow_hpo.recording import STOPPED_BY_SCHEDULER, RecordedTrial, Recording
from mlflow_hpo.tracking.recovery import RESUMES, remembered, remembered_tags, settings_path
from mlflow_hpo.tracking.summary import CHANGED
from mlflow_hpo.tracking.tracker import TAG_LENGTH, Tracker
from mlflow_hpo.yaml_text import as_yaml

FIXED = ("metric", "space", "constraints", "data", "target", "experiment")
"""Keys that a resumed study must have as they were: its trials would mean something else."""

_OF_HISTORY = ("warm_start", "warm_start_rename", "warm_start_task")  # what a study begins with
OF_SEARCH = (
    *("searcher", "scheduler", "min_resource", "max_resource", "seed", "points", "early_stopping"),
    *_OF_HISTORY,
)
"""Keys of the search. With another one of them the trials so far are over, and teach the new search."""


class Resumption:
    """A study that goes on: first it goes through its record again, then it makes new history.

    Args:
        recording: what is recorded of it.
        config: its settings from now on.

    Attributes:
        recording: as given.
        live: whether the record is told, and the study makes new history.

    Raises:
        ConfigError: one of `FIXED` is other than it was.
    """

    def __init__(self, recording: Recording, config: StudyConfig) -> None:
        self.recording = recording
        self.live = False
        self._begun = len(recording.trials)
        self._artifacts: dict[str, str | bytes] = {}
        self._notes: list[str] = []
        self._changes = changes(StudyConfig.parse(recording.keys), config)
        if self._changes.keys().isdisjoint(OF_SEARCH):
            self._remembered = remembered(recording.tags)
        else:  # a trial without params was killed before it began, and has nothing to teach
            self._remembered = {trial_id for trial_id, trial in recording.trials.items() if trial.texts}

    def also(self, artifacts: Mapping[str, str | bytes], notes: Iterable[str]) -> None:
        """Let the parent run have more artifacts when the study goes live, and the user be told more."""
        self._artifacts.update(artifacts)
        self._notes.extend(notes)

    def renewed(self, recording: Recording, config: StudyConfig) -> Resumption:
        """Return the same for a newer recording."""
        newer = Resumption(recording, config)
        newer.also(self._artifacts, self._notes)
        return newer

    def begin(
        self,
        config: StudyConfig,
        optimizer: Optimizer,
        books: Bookkeeper,
        launcher: Launcher,
        go_live: Callable[[], None],
    ) -> ReplayLauncher:
        """Return a launcher that tells the recorded trials again and then hands over to `launcher`.

        Trials of earlier searches of the study are over; optimizer and books learn what became of them. The
        trials are taken out of the recording: it may be large, and is let go of bit by bit.

        Args:
            config, optimizer, books: of the study.
            launcher: runs what is not recorded.
            go_live: called before it starts.
        """
        trials = dict(self.recording.trials)
        self.recording.trials.clear()
        books.recall(trials)
        past = [trials[trial_id] for trial_id in sorted(self._remembered)]
        for trial in past:
            broken = _broken(trial, config)
            _remember(optimizer, trial, broken, config)
            books.remember(trial, launcher.slots[0], broken)
        again = {trial_id: trial for trial_id, trial in trials.items() if trial_id not in self._remembered}
        optimizer.recall(
            {trial_id: config.space.parse(each.texts) for trial_id, each in again.items() if each.texts},
            {trial_id: trial.reached for trial_id, trial in again.items() if trial.reached},
            [
                trial_id
                for trial_id, trial in again.items()
                if trial.status == "KILLED" and trial.reason.startswith(STOPPED_BY_SCHEDULER)
            ],
        )
        return ReplayLauncher(launcher, again, go_live)

    def go_live(self, config: StudyConfig, books: Bookkeeper, tracker: Tracker) -> list[str]:
        """Let the study make new history: its runs and its books go on from the record.

        Args:
            config, books, tracker: of the study.

        Returns:
            What the user should know, line by line.
        """
        tags = self.recording.tags
        books.go_on_from(self.recording)
        resumes = int(tags.get(RESUMES, "0")) + 1
        settings = settings_path(resumes)
        tracker.log_first({**self._artifacts, settings: as_yaml(config.to_dict())})
        changed = json.loads(tags.get(CHANGED, "{}")) | {key: now for key, (_, now) in self._changes.items()}
        tracker.go_live(
            {RESUMES: str(resumes), CHANGED: _fitting(changed, settings), **remembered_tags(self._remembered)}
        )
        self.live = True
        return [
            f"resumed: it has {self._begun} trials with {books.ledger.epochs} epochs, and goes on",
            *(f"{key} was {was!r:.100}, is now {now!r:.100}" for key, (was, now) in self._changes.items()),
            *self._notes,
        ]


def _fitting(changed: Mapping[str, Any], settings: str) -> str:
    """Return settings as the JSON of a tag; instead of the longest ones, where they stand if need be."""
    told = dict(changed)
    while len(text := json.dumps(told)) > TAG_LENGTH:
        told[max(told, key=lambda key: len(json.dumps(told[key])))] = f"see {settings}"
    return text


def resumed_keys(recording: Recording, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of a study that goes on: as recorded, but where the user says otherwise."""
    stays = _OF_HISTORY if recording.looked else ()  # also where it found nothing
    return {**recording.keys, **{key: value for key, value in given.items() if key not in stays}}


def overruled(recording: Recording, given: Mapping[str, Any]) -> list[str]:
    """Return in words which of the keys that the user gives a study that goes on does not take."""
    keys = [
        key
        for key in _OF_HISTORY
        if recording.looked and given.get(key) and given[key] != recording.keys.get(key)
    ]
    return [f"{', '.join(keys)}: the study keeps the history that it began with"] if keys else []


def changes(before: StudyConfig, now: StudyConfig) -> dict[str, tuple[Any, Any]]:
    """Return what is other than it was: key -> (before, now).

    Raises:
        ConfigError: one of `FIXED` is among it.
    """
    old, new = before.to_dict(), now.to_dict()
    found = {
        key: (old.get(key), new.get(key))
        for key in dict.fromkeys([*old, *new])
        if old.get(key) != new.get(key)
    }
    if "space" in found:
        raise ConfigError(
            "space",
            "must be that of the study which is resumed; "
            + "; ".join(_differences(old["space"], new["space"]))
            + " (a new study can begin with what this one taught: warm_start: runs:/<its run id>)",
        )
    for key in FIXED:
        if key in found:
            was, is_now = found[key]
            raise ConfigError(
                key, f"must be as in the study which is resumed, {was!r:.200}, got {is_now!r:.200}"
            )
    return found


def check_trials(recording: Recording, config: StudyConfig) -> None:
    """Raise ConfigError where a study would go on with fewer trials than it has: the best might be lost."""
    begun = len(recording.trials)
    if config.trials < begun:
        raise ConfigError(
            "trials", f"must be at least {begun}, which the study has begun, got {config.trials}"
        )


def check_task(recording: Recording, task: str) -> None:
    """Raise ConfigError where a study would go on with other data."""
    before = recording.tags.get("hpo.task", "")
    if before != task:
        raise ConfigError("resume", f"the study is about {before!r:.100}, got {task!r:.100}")


def _remember(optimizer: Optimizer, trial: RecordedTrial, broken: Sequence[str], config: StudyConfig) -> None:
    """Let a new search learn from a trial of the one before; it is over."""
    curve = [
        (report.epoch, math.nan if words else report.metrics[config.metric.name])
        for report, words in zip(trial.reports, broken, strict=True)
    ]
    reason = trial.reason if trial.failed else None
    optimizer.remember(trial.trial_id, config.space.parse(trial.texts), curve, reason)


def _broken(trial: RecordedTrial, config: StudyConfig) -> list[str]:
    """Return, for each report of a trial, in words which constraints it broke by then."""
    last: dict[str, float] = {}
    broken = []
    for report in trial.reports:
        last.update(report.metrics)
        broken.append(violations(config.constraints, last))
    return broken


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return in words how two spaces differ."""
    names = dict.fromkeys([*before, *now])
    words = []
    for name in names:
        if name not in now:
            words.append(f"{name} is missing")
        elif name not in before:
            words.append(f"{name} is new")
        elif before[name] != now[name]:
            words.append(f"{name} was {before[name]}, got {now[name]}")
    return words or ["the parameters are in another order"]
