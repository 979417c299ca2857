"""A study whose workers are killed all the time, and whose trials fail in every way, ends by itself."""

import uuid
from pathlib import Path

import fault_suite


def test_faults_lose_nothing_and_leave_nothing_behind(store, monkeypatch, request):
    trials, pause = (200, 1.0) if request.config.getoption("full_size") else (20, 2.0)
    mark = uuid.uuid4().hex
    monkeypatch.setenv("FAULTS", mark)
    study = fault_suite.search(trials)
    launcher, free = study._launcher, []
    close = launcher.close
    killer = fault_suite.Killer(
        lambda random: random.choice(list(launcher._workers.values())).process.kill(), pause, seed=1
    )

    def look_and_close():
        killer.stop()
        if not free:
            free.append(sum(not worker.works for worker in launcher._workers.values()))
        close()

    monkeypatch.setattr(launcher, "close", look_and_close)
    killer.start()
    fault_suite.run(study, killer)

    assert free == [4], "a slot is leaked"
    assert fault_suite.relatives(mark) == []
    assert killer.killed > 0
    fault_suite.check(store, study, trials)
    assert Path("full").exists(), "the disk was never full"
