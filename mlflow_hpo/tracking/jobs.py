"""When which worker was at work on a trial, as its run tells it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from typing import NamedTuple

JOBS = "hpo.jobs"  # tag of a trial: worker, begin and seconds of its latest jobs, as JSON


class WorkedJob(NamedTuple):
    """When a worker was at work on a trial: seconds since 1970."""

    worker: int
    begin: float
    end: float


def written_jobs(jobs: Sequence[WorkedJob], longest: int) -> str:
    """Return the content of the tag `JOBS`: the latest jobs, in no more than so many characters.

    >>> written_jobs([WorkedJob(0, 1e9, 1e9 + 2.5), WorkedJob(1, 1e9 + 3, 1e9 + 4)], 30)
    '[[1,1000000003.0,1.0]]'
    """
    plain = [[job.worker, round(job.begin, 2), round(job.end - job.begin, 2)] for job in jobs]
    while len(text := json.dumps(plain, separators=(",", ":"))) > longest:
        del plain[: max(1, len(plain) // 10)]
    return text


def read_jobs(text: str) -> tuple[WorkedJob, ...]:
    """Return the jobs that `written_jobs` wrote; none where the text is another one.

    >>> read_jobs("[[1,1764177530.0,1.5]]")
    (WorkedJob(worker=1, begin=1764177530.0, end=1764177531.5),)
    >>> read_jobs("")
    ()
    """
    with contextlib.suppress(ValueError, TypeError):
        return tuple(
            WorkedJob(int(worker), float(begin), float(begin) + float(seconds))
            for worker, begin, seconds in json.loads(text)
        )
    return ()
