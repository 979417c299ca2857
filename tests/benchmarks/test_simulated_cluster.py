import math
from itertools import count

import mlflow
import pytest
import simulated_cluster
from cluster import Cluster, ClusterLauncher

from mlflow_hpo.launchers.base import Cause, CheckpointStored, Ended, Outcome, Reported, TrialJob
from mlflow_hpo.tracking.recovery import ATTEMPT


def even(workers, **changes):
    """Workers of whom each trains an epoch in exactly a minute, on nodes of their own."""
    return Cluster(workers, **{"node": 1, "spread": 0.0, "stragglers": 0.0, "lifetime": math.inf, **changes})


def launched(cluster, cpu=lambda: 0.0):
    return ClusterLauncher(cluster, lambda params, epoch: 1 / epoch, cpu)


def submit(launcher, trial_id, stop, start=0, location="here"):
    job = TrialJob(trial_id, {}, start, stop, seed=0, location=location)
    launcher.submit(launcher.free_slot, job)


def told(launcher):
    """Return the reports and ends that are told next, and let those go on who reported."""
    events = []
    while not events:
        events = [event for event in launcher.wait(0.5) if not isinstance(event, CheckpointStored)]
    for event in events:
        if isinstance(event, Reported):
            launcher.reply(event.trial_id, go_on=True, best=False)
    return events


def test_utilisation_is_what_the_workers_trained_of_the_time_in_which_they_were_there():
    launcher = launched(even(2))
    submit(launcher, 0, stop=2)
    submit(launcher, 1, stop=1)
    assert launcher.free_slot is None
    assert [(event.trial_id, event.epoch) for event in told(launcher)] == [(0, 1), (1, 1)]
    assert told(launcher) == [Ended(1, Outcome.COMPLETED, 60.0)]
    assert [(event.trial_id, event.epoch) for event in told(launcher)] == [(0, 2)]
    assert told(launcher) == [Ended(0, Outcome.COMPLETED, 120.0)]
    launcher.close()
    assert (launcher.now, launcher.out) == (120.0, 60.0)
    assert simulated_cluster.utilisation(launcher, 60.0) == 1.0
    assert simulated_cluster.utilisation(launcher, math.inf) == 0.75
    assert launcher.trained == {0: 120.0, 1: 60.0}


def test_what_the_driver_computes_takes_its_time():
    seconds = count()
    launcher = launched(even(1), lambda: float(next(seconds)))
    submit(launcher, 0, stop=2)
    [first] = told(launcher)
    [second] = told(launcher)
    assert (first.epoch, second.epoch) == (1, 2)
    told(launcher)
    launcher.close()
    assert simulated_cluster.utilisation(launcher, math.inf) == 120.0 / launcher.now < 1.0


def test_stragglers_are_slow():
    launcher = launched(even(1, stragglers=1.0, slowness=5.0))
    submit(launcher, 0, stop=1)
    told(launcher)
    assert launcher.now == 300.0


def test_time_stands_still_until_the_study_has_heard():
    launcher = launched(even(2))
    submit(launcher, 0, stop=9)
    assert isinstance(launcher.wait(0.5)[0], Reported)
    assert launcher.wait(0.5) == []
    assert launcher.now == 60.0
    launcher.reply(0, go_on=True, best=False)
    assert isinstance(launcher.wait(0.5)[0], Reported)
    assert launcher.now == 120.0


def test_a_lost_node_takes_its_job_and_comes_back():
    launcher = launched(even(1, lifetime=3600.0, absence=600.0))
    submit(launcher, 0, stop=1000)
    while not isinstance((event := told(launcher)[-1]), Ended):
        reported = event
    lost = launcher.now
    assert (event.outcome, event.cause, event.seconds) == (Outcome.FAILED, Cause.LOST, lost)
    assert (launcher.nodes_lost, launcher.jobs_lost, launcher.free_slot) == (1, 1, None)
    assert 0 < launcher.wasted < 180.0  # since the last checkpoint
    assert launcher.wait(0.5) == []  # its time has come
    assert launcher.now == lost + 600.0
    submit(launcher, 0, stop=1000)
    again = told(launcher)[0]
    assert reported.epoch - 2 < again.epoch <= reported.epoch + 1  # from the last checkpoint
    launcher.close()
    assert launcher.available.before(math.inf) == pytest.approx(launcher.now - 600.0)


def test_a_loss_that_the_study_cannot_hear_yet_is_waited_for():
    launcher = launched(even(1, lifetime=1.0))
    submit(launcher, 0, stop=1000, location="")
    assert isinstance(launcher.wait(0.5)[-1], Ended)
    before = launcher.now
    assert launcher.wait(0.5) == []
    assert launcher.now == before
    launcher.located(0, "here", "run")
    launcher.wait(0.5)
    assert launcher.now == before + 600.0


def test_a_study_on_a_cluster_that_loses_nodes_ends_every_trial_truly(store):
    cluster = Cluster(20, node=4, lifetime=1800.0, absence=300.0)
    study, launcher = simulated_cluster.simulate(cluster, 200, "random")
    assert launcher.jobs_lost > 0
    ended = simulated_cluster.states(study)
    assert sum(ended.values()) == 200
    assert set(ended) <= {"FINISHED", "KILLED", "FAILED"}
    assert ended["FINISHED"] > 0
    again = mlflow.search_runs(
        search_all_experiments=True, filter_string=f"tags.`{ATTEMPT}` != ''", output_format="list"
    )
    assert again
    for run in again:
        steps = [point.step for point in store.get_metric_history(run.info.run_id, "loss")]
        assert steps == list(range(1, len(steps) + 1))
    done = store.get_metric_history(study.run_id, "trials_done")
    assert [point.step for point in done] == list(range(len(done)))
    assert len(done) < launcher.jobs, "not a step for each job"
    assert done[-1].value == 200
    assert study.best.resource == simulated_cluster.EPOCHS
    found = simulated_cluster.figures(study, launcher, wall=10.0, cpu=1.0, peak=100.0)
    assert found["jobs lost with them"] == str(launcher.jobs_lost)
    assert 0.9 < simulated_cluster.utilisation(launcher, launcher.out) <= 1.0
