"""What a script has logged, read again and again, as the reports of its job."""

from __future__ import annotations

from mlflow_hpo.launchers.progress import Progress
from mlflow_hpo.steps import Point


def logged(*steps: int, values: list[float] | None = None) -> list[Point]:
    """Return values logged at some steps, one a second, which are their places from 1 unless given."""
    values = values or [float(place) for place in range(1, len(steps) + 1)]
    return [Point(step, float(at), value) for at, (step, value) in enumerate(zip(steps, values, strict=True))]


def told(progress: Progress, *steps: int, over: bool = False, **rest: bool) -> list[tuple[int, float]]:
    news = progress.news({"acc": logged(*steps)}, over=over, **rest)
    return [(each.epoch, each.metrics["acc"]) for each in news]


def test_each_epoch_is_told_once_as_it_comes() -> None:
    progress = Progress(["acc"], 0, 5)
    assert told(progress) == []
    assert told(progress, 0, 1) == [(1, 1.0), (2, 2.0)]
    assert told(progress, 0, 1) == []
    assert told(progress, 0, 1, 2, 3) == [(3, 3.0), (4, 4.0)]
    assert not progress.complete
    assert told(progress, 0, 1, 2, 3, 4, over=True, whole=True) == [(5, 5.0)]
    assert progress.complete
    assert not progress.beyond


def test_steps_from_one_are_epochs() -> None:
    assert told(Progress(["acc"], 0, 5), 1, 2) == [(1, 1.0), (2, 2.0)]
    assert told(Progress(["acc"], 0, 5), 1) == [(1, 1.0)]


def test_values_without_steps_are_counted() -> None:
    progress = Progress(["acc"], 0, 5)
    assert told(progress, 0, 0) == [(1, 1.0), (2, 2.0)]
    assert told(progress, 0, 0, 0) == [(3, 3.0)]


def test_values_are_counted_where_steps_are_no_epochs() -> None:
    assert told(Progress(["acc"], 0, 5, most=5, counted=True), 49, 99) == [(1, 1.0), (2, 2.0)]


def test_steps_that_can_be_no_epochs_are_noticed() -> None:
    progress = Progress(["acc"], 0, 3, most=9)
    assert told(progress, 49, 99) == []
    assert progress.misplaced == 49
    progress = Progress(["acc"], 0, 3, most=9)
    assert told(progress, 5) == [(3, 1.0)]
    assert progress.misplaced is None


def test_a_value_that_may_be_the_only_one_waits() -> None:
    progress = Progress(["acc"], 0, 9)
    assert told(progress, 0) == []
    assert told(progress, 0, over=True, whole=True) == [(9, 1.0)], "it is the result of the whole training"

    progress = Progress(["acc"], 0, 9)
    assert told(progress, 0) == []
    assert told(progress, 0, 1) == [(1, 1.0), (2, 2.0)]

    assert told(Progress(["acc"], 0, 9), 0, by_step=True) == [(1, 1.0)], "others have shown what it means"


def test_a_script_that_ends_early_by_itself_has_trained_to_its_end() -> None:
    assert told(Progress(["acc"], 0, 9), 0, 1, over=True, whole=True) == [(1, 1.0), (2, 2.0), (9, 2.0)]


def test_one_that_fails_has_not() -> None:
    assert told(Progress(["acc"], 0, 9), 0, 1, over=True) == [(1, 1.0), (2, 2.0)]


def test_what_lies_behind_the_last_epoch_is_not_told() -> None:
    progress = Progress(["acc"], 0, 2)
    assert told(progress, 0, 1, 2, 3) == [(1, 1.0), (2, 2.0)]
    assert progress.complete
    assert progress.beyond


def test_a_script_that_passes_over_the_last_epoch_is_told_there() -> None:
    progress = Progress(["acc"], 0, 9)
    assert told(progress, 5) == [(5, 1.0)]
    assert told(progress, 5, 10) == [(9, 1.0)], "the last value from before"
    assert told(Progress(["acc"], 0, 3), 5) == [(3, 1.0)], "or the first from behind"


def test_a_job_that_goes_on_tells_what_is_new() -> None:
    assert told(Progress(["acc"], 2, 5), 0, 1, 2) == [(3, 3.0)]


def test_other_metrics_of_an_epoch_may_come_a_little_later() -> None:
    progress = Progress(["acc", "latency"], 0, 9)
    assert progress.news({"acc": logged(0, 1), "latency": logged(0)}, over=False)[0].epoch == 1
    news = progress.news({"acc": logged(0, 1), "latency": logged(0, 1, values=[7.0, 8.0])}, over=False)
    assert [(each.epoch, each.metrics) for each in news] == [(2, {"acc": 2.0, "latency": 8.0})]


def test_another_metric_may_be_logged_once() -> None:
    progress = Progress(["acc", "latency"], 0, 2)
    rest = {"latency": logged(0, values=[7.0])}
    news = progress.news({"acc": logged(0, 1), **rest}, over=True, whole=True)
    assert [each.metrics for each in news] == [{"acc": 1.0, "latency": 7.0}, {"acc": 2.0}]


def test_of_several_values_at_a_step_the_last_one_counts() -> None:
    assert told(Progress(["acc"], 0, 9), 1, 1, 2, over=True) == [(1, 2.0), (2, 3.0)]
