import contextlib
import time

import pytest
from launcher_contract import LauncherContract
from launching import PARAMS, FolderServices, NamedRun, Run
from packables import Named

from mlflow_hpo import ConfigError
from mlflow_hpo.launchers.base import Cause, Ended, Heartbeat, Outcome, Reported, TrialJob, Warned
from mlflow_hpo.launchers.pack_limits import FIRST, PackLimits
from mlflow_hpo.launchers.packed import SLACK, PackedLauncher


class OneProcess(PackedLauncher):
    """All trials in one process."""

    def __init__(self, workers):
        super().__init__(workers, processes=1, gpus_per_trial=0)


class PackedRun(NamedRun):
    make = OneProcess

    def __init__(self, tmp_path, workers=1):
        Run.__init__(self, tmp_path, Named(), workers)
        self.trial_id = -1

    def together(self, jobs, stop=3):
        """Submit jobs with these parameters and answer their reports to the end; return what each told."""
        for trial_id, params in enumerate(jobs):
            self.submit(trial_id, {**PARAMS, **params}, stop=stop)
        return self.answered(range(len(jobs)))

    def answered(self, trials):
        """Answer until all of these have ended; those that are put off are handed in again."""
        told = {trial_id: [] for trial_id in trials}
        left, deadline = set(trials), time.monotonic() + 60
        jobs = {work.job.trial_id: work.job for worker in self.workers for work in worker.works.values()}
        reached = dict.fromkeys(trials, 0)
        while left:
            assert time.monotonic() < deadline, told
            for event in self.launcher.wait(1.0):
                if event.trial_id in told:
                    told[event.trial_id].append(event)
                if isinstance(event, Reported):
                    reached[event.trial_id] = event.epoch
                    self.launcher.reply(event.trial_id, go_on=True, best=False)
                elif isinstance(event, Ended) and event.outcome is Outcome.UNFINISHED:
                    job = jobs[event.trial_id]
                    again = TrialJob(
                        *(job.trial_id, job.params, job.start, job.stop, job.seed, job.location),
                        reached=reached[job.trial_id],
                    )
                    self.launcher.submit(self.launcher.slot_for(job.params), again)
                elif isinstance(event, Ended):
                    left.discard(event.trial_id)
        return told

    @property
    def workers(self):
        return self.launcher._workers.values()


def end(events):
    return next(
        event for event in events if isinstance(event, Ended) and event.outcome is not Outcome.UNFINISHED
    )


def packs(events):
    return [event.metrics["pack"] for event in events if isinstance(event, Reported)]


def epochs(events):
    return [event.epoch for event in events if isinstance(event, Reported)]


class TestContract(LauncherContract):
    @pytest.fixture(scope="class")
    @classmethod
    def run(cls, tmp_path_factory):
        with contextlib.closing(PackedRun(tmp_path_factory.mktemp("contract"))) as run:
            yield run

    @pytest.mark.parametrize(
        ("train", "reason"),
        [
            ("raises", "ValueError: x is 0.500"),
            ("diverges", "RuntimeError: training diverged in epoch 1"),
            ("exits", "SystemExit: 3"),
            ("exits_at_once", "the worker process died: exit code 7"),
            ("reports_text", "StudyError: report: loss must be a number, got str 'low'"),
            ("cannot_be_saved", "TypeError: Object of type object is not JSON serializable"),
        ],
    )
    def test_whatever_goes_wrong_ends_as_a_failure_with_its_reason(self, run, train, reason):
        run.begin(train)
        ended, _ = run.to_end()
        assert (ended.outcome, ended.reason) == (Outcome.FAILED, reason)

    def test_a_failure_brings_the_end_of_its_traceback(self, run):
        run.begin("raises")
        ended, _ = run.to_end()
        assert ended.cause is Cause.TRAINING
        assert "packables.py" in ended.details
        assert ended.details.rstrip().endswith("and more")

    def test_a_killed_trial_fails_with_the_given_reason(self, run):
        run.begin("hangs", stop=9)
        run.until(lambda event: isinstance(event, Reported))
        run.launcher.reply(run.trial_id, go_on=True, best=False)
        run.launcher.kill(run.trial_id, "took too long")
        ended, _ = run.to_end()
        assert (ended.outcome, ended.reason) == (Outcome.FAILED, "took too long")

    def test_without_any_intact_checkpoint_training_begins_from_scratch(self, run):
        run.trial_id += 1  # one that was never here
        run.store.mkdir()
        (run.store / "2.corrupt").touch()
        run.go_on("", start=2, stop=3)
        _, events = run.to_end()
        warnings = [event.message for event in events if isinstance(event, Warned)]
        assert warnings[-1] == "no intact checkpoint for epoch 2: training from scratch"
        assert epochs(events) == [1, 2, 3]

    test_careless_training_stops_all_the_same = None  # code for packs does not report by itself


@pytest.fixture
def start(tmp_path):
    with contextlib.ExitStack() as stack:

        def begin(workers):
            return stack.enter_context(contextlib.closing(PackedRun(tmp_path, workers)))

        yield begin


def test_trials_of_one_key_are_trained_together_and_others_beside_them(start):
    told = start(5).together([{"key": "a"}] * 3 + [{"key": "b"}] * 2, stop=4)
    assert [epochs(told[at]) for at in range(5)] == [[1, 2, 3, 4]] * 5
    assert {end(told[at]).outcome for at in range(5)} == {Outcome.COMPLETED}
    assert [max(packs(told[at])) for at in range(5)] == [3, 3, 3, 2, 2]
    assert len({event.metrics["pid"] for each in told.values() for event in each if _reported(event)}) == 1


def _reported(event):
    return isinstance(event, Reported)


def test_what_goes_wrong_with_one_touches_no_other(start):
    bad = [{"train": "raises"}, {"train": "diverges"}, {"train": "reports_text"}, {"wrong": True}]
    told = start(7).together([*bad, {}, {}, {}])
    assert [end(told[at]).reason for at in range(4)] == [
        "ValueError: x is 0.500",
        "RuntimeError: training diverged in epoch 1",
        "StudyError: report: loss must be a number, got str 'low'",
        "ValueError: wrong configuration",
    ]
    for at in (4, 5, 6):
        assert (end(told[at]).outcome, epochs(told[at])) == (Outcome.COMPLETED, [1, 2, 3])


def test_a_pack_that_lacks_memory_is_halved_and_loses_nothing(start):
    told = start(4).together([{"train": "lacks_memory"}] * 4, stop=5)
    for events in told.values():
        assert (end(events).outcome, epochs(events)) == (Outcome.COMPLETED, [1, 2, 3, 4, 5])
        assert packs(events)[-1] <= 2
        assert [event.metrics["length"] for event in events if _reported(event)] == [1, 2, 3, 4, 5]


def test_a_trial_is_interrupted_in_mid_epoch_and_the_others_go_on(start):
    run = start(3)
    for trial_id, train in enumerate(["endless_epoch", "", ""]):
        run.submit(trial_id, {**PARAMS, "train": train}, stop=3)
    seen = []
    while len(seen) < 3:
        seen += [event for event in run.launcher.wait(1.0) if _reported(event)]
    for event in seen:
        run.launcher.reply(event.trial_id, go_on=True, best=False)
    run.launcher.interrupt(0)
    told = run.answered(range(3))
    assert end(told[0]).outcome is Outcome.STOPPED
    assert [end(told[at]).outcome for at in (1, 2)] == [Outcome.COMPLETED] * 2
    assert [epochs(told[at]) for at in (1, 2)] == [[2, 3]] * 2
    run.launcher.drain(60)
    assert (run.folder / "store-0" / "1.ckpt").read_text() == "[1]"


def test_a_killed_trial_costs_the_others_no_attempt(start):
    run = start(3)
    told = {}
    for trial_id in range(3):
        run.submit(trial_id, stop=3)
    run.until(_reported)
    run.launcher.kill(1, "took too long")
    told = run.answered(range(3))
    assert (end(told[1]).outcome, end(told[1]).reason) == (Outcome.FAILED, "took too long")
    for at in (0, 2):
        assert end(told[at]).outcome is Outcome.COMPLETED
        assert epochs(told[at])[-1] == 3


def test_who_kills_its_process_is_found_and_the_others_lose_no_attempt(start):
    jobs = [{"x": x, "train": "dies_for_positive"} for x in (-0.5, -0.5, -0.5, -0.5, 0.5)]
    told = start(5).together(jobs)
    assert end(told[4]).reason == "the worker process died: signal SIGKILL"
    assert end(told[4]).cause is Cause.LOST
    for at in range(4):
        assert (end(told[at]).outcome, epochs(told[at])[-1]) == (Outcome.COMPLETED, 3)


def test_signs_of_life_are_those_of_the_pack(start):
    run = start(2)
    for trial_id in range(2):
        location = str(run.folder / f"store-{trial_id}")
        job = TrialJob(trial_id, dict(PARAMS), 0, 1, 0, location, watched=True)
        run.launcher.submit(run.launcher.free_slot, job)
    told = run.answered(range(2))
    for events in told.values():
        waits = [event.waits for event in events if isinstance(event, Heartbeat)]
        assert waits[0] is True  # for its checkpoint
        assert False in waits


def test_a_free_slot_is_found_where_the_like_are_trained(tmp_path):
    launcher = PackedLauncher(4 * SLACK, processes=2, gpus_per_trial=0)
    (tmp_path / "work").mkdir()
    with contextlib.closing(launcher):
        launcher.start(Named(), FolderServices(), tmp_path / "work")
        homes = []
        for trial_id in range(3 * SLACK):
            params = {**PARAMS, "key": "ab"[trial_id % 2], "train": "hangs"}
            slot = launcher.slot_for(params)
            launcher.submit(slot, TrialJob(trial_id, params, 0, 3, 0, ""))
            homes.append(slot.number % 2)
        assert homes[::2] == [homes[0]] * len(homes[::2])
        assert homes[1::2] == [1 - homes[0]] * len(homes[1::2])
        params = {**PARAMS, "key": "a"}
        for trial_id in range(100, 100 + 4 * SLACK - 3 * SLACK):
            launcher.submit(launcher.slot_for(params), TrialJob(trial_id, params, 0, 3, 0, ""))
        with pytest.raises(RuntimeError, match="no slot is free"):
            launcher.slot_for(params)


def test_the_first_pack_of_a_key_is_small_and_its_need_bounds_the_next():
    limits = PackLimits("cpu")
    assert limits.size("a") == FIRST
    with limits.measured("a", 2):
        block = bytearray(64 << 20)
        block[::4096] = b"x" * len(block[::4096])
    free = limits._memory.free()
    assert 0.5 * free < limits.size("a") * (32 << 20) < free
    limits.lacked("a", 8)
    assert limits.size("a") == 7
    assert limits.size("b") == FIRST


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"workers": 0}, "workers: must be 1 or more, got 0"),
        ({"workers": 2, "processes": 0}, "processes: must be a whole number of 1 or more, got 0"),
        (
            {"workers": 2, "gpus_per_trial": 0.5},
            "gpus_per_trial: must be 0 or left out with",
        ),
    ],
)
def test_wrong_options_are_told(keys, message):
    with pytest.raises(ConfigError, match=message):
        PackedLauncher(**keys)


def test_training_code_of_one_trial_is_refused():
    with pytest.raises(ConfigError, match="launcher: packed needs training code that can"):
        PackedLauncher(2).check(lambda trial: None)
