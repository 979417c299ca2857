import pytest
from lcbench import Curve
from methods import method
from simulator import Job, simulate
from synthetic import Rising

OURS = ["random", "tpe+full", "random+asha@1", "tpe+hyperband@1", "random+successive_halving@1"]


class Witness:
    """Passes everything on to a method and notes what happens."""

    def __init__(self, inner):
        self.inner = inner
        self.running = {}
        self.trained = []  # (trial, epoch)
        self.most = 0

    def ask(self):
        job = self.inner.ask()
        if job is not None:
            assert job.trial not in self.running
            self.running[job.trial] = job
            self.most = max(self.most, len(self.running))
        return job

    def report(self, trial, epoch, value):
        job = self.running[trial]
        assert job.start < epoch <= job.stop
        self.trained.append((trial, epoch))
        return self.inner.report(trial, epoch, value)

    def complete(self, trial):
        del self.running[trial]
        self.inner.complete(trial)


class Scripted:
    """Hands out given jobs, one after the other, and stops at none."""

    def __init__(self, jobs):
        self.jobs = list(jobs)
        self.reports = []

    def ask(self):
        return self.jobs.pop(0) if self.jobs else None

    def report(self, trial, epoch, value):
        self.reports.append((trial, epoch))
        return True

    def complete(self, trial):
        pass


def search(name, seed=0):
    return method(name).make(Rising.space, seed, Rising.max_epochs)


@pytest.mark.parametrize("workers", [1, 4, 64])
@pytest.mark.parametrize("name", OURS)
def test_conserves_epochs_and_workers(name, workers):
    witness = Witness(search(name))

    trace = simulate(witness, Rising(), workers=workers, epochs=300)

    assert trace.epochs == 300 == len(witness.trained) == len(set(witness.trained))
    assert witness.most == workers
    assert trace.trials == len({trial for trial, _ in witness.trained} | witness.running.keys())
    values = [value for _, _, value in trace.steps]
    assert values == sorted(values)
    assert trace.value(300) == values[-1]


@pytest.mark.parametrize("name", OURS)
def test_is_deterministic(name):
    one, other = (simulate(search(name), Rising(), workers=4, epochs=200) for _ in range(2))

    assert one == other
    assert one != simulate(search(name, seed=1), Rising(), workers=4, epochs=200)


def test_time_runs_for_all_workers_at_once():
    config = {"x": 0.5, "y": 0.0}
    jobs = [Job(trial, config, 0, 10) for trial in range(4)]

    assert simulate(Scripted(jobs), Rising(), workers=4, epochs=40).seconds == 10
    assert simulate(Scripted(jobs), Rising(), workers=1, epochs=40).seconds == 40


def test_a_resumed_trial_pays_for_new_epochs_only():
    config = {"x": 0.5, "y": 0.0}

    trace = simulate(Scripted([Job(0, config, 0, 4), Job(0, config, 4, 7)]), Rising(), workers=1, epochs=100)

    assert (trace.epochs, trace.seconds, trace.trials) == (7, 7, 1)


def test_what_is_trained_again_is_reported_for_nothing():
    method = Scripted([Job(0, {"x": 0.5, "y": 0.0}, 0, stop) for stop in (4, 7)])

    trace = simulate(method, Rising(), workers=1, epochs=100)

    assert (trace.epochs, trace.seconds) == (7, 7)
    assert len(method.reports) == 4 + 7


@pytest.mark.parametrize(
    ("jobs", "reason"),
    [
        ([(0, 5), (0, 5)], "running already"),
        ([(3, 5)], "can't train epochs 4"),
        ([(0, 11)], "can't train"),
        ([(0, 0)], "can't train"),
    ],
)
def test_refuses_impossible_jobs(jobs, reason):
    method = Scripted(Job(0, {"x": 0.5, "y": 0.0}, start, stop) for start, stop in jobs)

    with pytest.raises(RuntimeError, match=reason):
        simulate(method, Rising(), workers=2, epochs=20)


def test_a_method_may_end_by_itself():
    trace = simulate(Scripted([Job(0, {"x": 0.3, "y": 0.0}, 0, 10)]), Rising(), workers=3, epochs=500)

    assert trace.epochs == 10
    assert trace.value(7) > 99 > trace.value(6)
    assert trace.value(0) is None


def test_an_untimely_stop_ends_the_job():
    class Impatient(Scripted):
        def report(self, trial, epoch, value):
            super().report(trial, epoch, value)
            return epoch < 3

    method = Impatient([Job(0, {"x": 0.3, "y": 0.0}, 0, 10)])

    assert simulate(method, Rising(), workers=1, epochs=500).epochs == 3


def test_curves_are_what_is_reported():
    class Noted(Scripted):
        def report(self, trial, epoch, value):
            assert value == self.curve.values[epoch - 1]
            return True

    method = Noted([Job(0, {"x": 0.1, "y": 1.0}, 0, 10)])
    method.curve = Rising().curve({"x": 0.1, "y": 1.0})
    assert isinstance(method.curve, Curve)

    assert simulate(method, Rising(), workers=1, epochs=10).seconds == pytest.approx(20)
