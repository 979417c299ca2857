import pytest
import traces
from lcbench import Task
from synthetic import Rising
from traces import Traces

TASK = Task("7", "seven")


class Bench:
    def __init__(self):
        self.asked = 0

    def problem(self, task):
        self.asked += 1
        return Rising()


@pytest.fixture
def folders(tmp_path):
    return tmp_path / "ours", tmp_path / "peers"


def test_nothing_is_measured_twice(folders):
    first = Traces(Bench(), *folders).trace("random", TASK, 0, 2, 30)
    bench = Bench()

    again = Traces(bench, *folders).trace("random", TASK, 0, 2, 30)

    assert again == first
    assert again.steps
    assert bench.asked == 0


@pytest.mark.parametrize("other", [(TASK, 1, 2, 30), (Task("8", "eight"), 0, 2, 30), (TASK, 0, 3, 30)])
def test_but_every_seed_task_and_number_of_workers_is(folders, other):
    Traces(Bench(), *folders).trace("random", TASK, 0, 2, 30)
    bench = Bench()

    Traces(bench, *folders).trace("random", *other)

    assert bench.asked == 1


def test_our_own_traces_are_kept_apart_from_those_of_the_peers(folders):
    ours, peers = folders
    kept = Traces(Bench(), ours, peers)
    kept.trace("random", TASK, 0, 1, 20)
    kept.trace("random+full@1", TASK, 0, 1, 20)

    assert [path.parent.name for path in ours.rglob("*.jsonl")] == ["random+full@1"]
    assert [path.parent.name for path in peers.rglob("*.jsonl")] == ["random"]


def test_a_peer_measured_elsewhere_answers(folders, monkeypatch):
    kept = Traces(Bench(), *folders)
    trace = kept.trace("random", TASK, 0, 1, 20)
    version = kept.version("random", 1)
    monkeypatch.setattr(traces, "method", lambda name: type("Entry", (), {"ours": False, "version": None}))
    elsewhere = Traces(Bench(), *folders)

    assert elsewhere.version("random", 1) == version
    assert elsewhere.trace("random", TASK, 0, 1, 20) == trace
    assert elsewhere.version("random", 4) is None
    with pytest.raises(ImportError, match="random is not installed in a version that has it"):
        elsewhere.trace("random", TASK, 1, 1, 20)  # whatever is installed would be filed as another version


def test_the_newest_version_measured_elsewhere_answers(folders, monkeypatch):
    folder = folders[1] / "workers-1" / "random"
    folder.mkdir(parents=True)
    for version in ("0.9.0", "0.13.0", "0.2.1"):
        (folder / f"{version}.jsonl").touch()
    monkeypatch.setattr(traces, "method", lambda name: type("Entry", (), {"ours": False, "version": None}))
    assert Traces(Bench(), *folders).version("random", 1) == "0.13.0"
