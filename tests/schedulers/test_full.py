from __future__ import annotations

from mlflow_hpo.schedulers import Assignment, Decision
from mlflow_hpo.schedulers.full import FullScheduler


def test_every_trial_gets_everything_in_one_job():
    scheduler = FullScheduler(1, 9)
    assert scheduler.levels == (9,)
    assert [scheduler.next(trial) for trial in range(2)] == [Assignment(0, 0, 9), Assignment(1, 0, 9)]
    assert scheduler.report(0, 1, float("inf")) is Decision.CONTINUE
    scheduler.complete(0)
    scheduler.fail(1)
    scheduler.close()
    assert scheduler.next(None) is None
    assert not scheduler.has_work
    assert scheduler.eliminated == []
