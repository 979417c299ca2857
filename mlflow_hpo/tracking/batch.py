"""Batch: what waits to be written to one run, in memory and as a line of a spool."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from mlflow.entities import Metric, Param, RunTag
from mlflow.tracking import MlflowClient

VALUES = 1_000  # values that one log_batch request may carry; params and tags: 100 each
PARAMS = 100
WARNING = 4_000  # characters
_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,255}")
_UNFINISHED, _ENDED = ("RUNNING", "SCHEDULED"), ("FINISHED", "FAILED", "KILLED")

Point = tuple[str, float, int, int]  # name, value, milliseconds since 1970, step


@dataclass(frozen=True, slots=True)
class Request:
    """A request of the store, and how much of its batch it writes."""

    send: Callable[[], Any]
    status: str | None
    points: int = 0
    params: Sequence[str] = ()
    tags: Sequence[str] = ()


@dataclass(slots=True)
class Batch:
    """Values for one run, in the order in which they came; of a tag and of the status only the latest counts.

    Writing the same batch again, whole or in part, changes nothing in MLflow's stores: a point that is there
    already, or a param of the same value, is not written a second time.
    """

    points: list[Point] = field(default_factory=list)
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    status: str | None = None
    ended: int = 0  # milliseconds since 1970 at which the status came

    def __len__(self) -> int:
        return len(self.points) + len(self.params) + len(self.tags) + (self.status is not None)

    def add(self, newer: Batch) -> None:
        """Take in what came after this batch."""
        self.points += newer.points
        self.params |= newer.params
        self.tags |= newer.tags
        if newer.status is not None:
            self.status, self.ended = newer.status, newer.ended

    def request(self, client: MlflowClient, run_id: str) -> Request | None:
        """Return the next request that is to be made to write this batch; None if there is nothing left.

        The status comes last: what came before it is there when a run has ended.
        """
        if not (self.points or self.params or self.tags):
            if self.status is None:
                return None
            if self.status in _UNFINISHED:
                return Request(partial(client.update_run, run_id, status=self.status), self.status)
            end = partial(client.set_terminated, run_id, status=self.status, end_time=self.ended)
            return Request(end, self.status)
        params, tags = list(self.params.items())[:PARAMS], list(self.tags.items())[:PARAMS]
        points = self.points[: VALUES - len(params) - len(tags)]
        send = partial(
            client.log_batch,
            run_id,
            metrics=[Metric(key, value, time, step) for key, value, time, step in points],
            params=[Param(key, value) for key, value in params],
            tags=[RunTag(key, value) for key, value in tags],
        )
        return Request(send, None, len(points), [key for key, _ in params], [key for key, _ in tags])

    def written(self, request: Request) -> None:
        """Take out what a request has written."""
        del self.points[: request.points]
        for key in request.params:
            del self.params[key]
        for key in request.tags:
            del self.tags[key]
        if request.status is not None:
            self.status = None

    def leave_out(self, there: Mapping[str, str]) -> bool:
        """Leave out the params that a run has already with other values, and tell so in a tag.

        A project's script may log what it was given before the study does, in its own spelling.

        Args:
            there: the run's params.

        Returns:
            Whether there were any.
        """
        other = {key: value for key, value in self.params.items() if there.get(key, value) != value}
        if other:
            words = [f"{key} as {there[key]!r:.100}, it was {value!r:.100}" for key, value in other.items()]
            self.tags["hpo.warning"] = f"the training logged the param {'; '.join(words)}"[:WARNING]
            self.params = {key: value for key, value in self.params.items() if key not in other}
        return bool(other)

    def lines(self, run_id: str) -> Iterator[bytes]:
        """Yield this batch as lines of JSON, of at most `VALUES` points each."""
        rest: dict[str, Any] = {"run": run_id, "params": self.params, "tags": self.tags}
        if self.status is not None:
            rest |= {"status": self.status, "ended": self.ended}
        for begin in range(0, max(1, len(self.points)), VALUES):
            points = [
                (k, _as_json(v), time, step) for k, v, time, step in self.points[begin : begin + VALUES]
            ]
            last = begin + VALUES >= len(self.points)
            entry = {**(rest if last else {"run": run_id}), "points": points}
            kept = {key: value for key, value in entry.items() if value}
            yield json.dumps(kept, separators=(",", ":"), allow_nan=False).encode() + b"\n"


def parsed(line: bytes) -> tuple[str, Batch]:
    """Return the run and the batch of a line that `Batch.lines` wrote.

    Raises:
        ValueError: it is torn, or something else.
    """
    entry = json.loads(line)
    if not isinstance(entry, dict):
        raise ValueError("not an object")
    try:
        run_id, status = entry["run"], entry.get("status")
        if not _RUN_ID.fullmatch(run_id):
            raise ValueError("not the id of a run")
        if status not in (None, *_UNFINISHED, *_ENDED):
            raise ValueError("not a status")
        return run_id, Batch(
            [(_text(k), float(v), int(time), int(step)) for k, v, time, step in entry.get("points", ())],
            {_text(key): _text(value) for key, value in entry.get("params", {}).items()},
            {_text(key): _text(value) for key, value in entry.get("tags", {}).items()},
            status,
            int(entry.get("ended", 0)),
        )
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"not a batch: {type(error).__name__}") from None


def _as_json(value: float) -> float | str:
    return float(value) if math.isfinite(value) else str(float(value))  # JSON knows no nan


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("not a text")
    return value
