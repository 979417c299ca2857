import io

import pytest
from rich.console import Console

from mlflow_hpo.reports.live import LiveView, PlainView, render
from mlflow_hpo.reports.text import best_line, ending, rungs, saved, spent, states, where_to_look
from mlflow_hpo.tracking.summary import StudySummary, TrialSummary


def trial(trial_id, status, epochs, best, reason="", infeasible=""):
    params = {"lr": 0.012345678, "optimizer": "[bold]sgd"}
    return TrialSummary(
        trial_id, f"run{trial_id}", status, params, epochs=epochs, value=best, best=best, best_epoch=epochs,
        reason=reason, infeasible=infeasible,
    )  # fmt: skip


TRIALS = (
    trial(0, "KILLED", 1, 0.5),
    trial(1, "SCHEDULED", 3, 0.8),
    trial(2, "RUNNING", 4, 0.9),
    trial(3, "FAILED", 0, None, "boom"),
    trial(4, "FINISHED", 9, 0.85),
)


def study(**changes):
    facts = {
        "run_id": "abc", "name": "calm-fox-1", "experiment_id": "7", "tracking_uri": "http://host:5000",
        "status": "RUNNING", "metric": "accuracy", "mode": "max", "searcher": "tpe", "scheduler": "asha",
        "trials_planned": 10, "max_resource": 9, "seconds": 90.0, "epochs": 17, "gpu_hours": 0.0,
        "trials": TRIALS, "best_trial": 2, "eta": 75.0,
    }  # fmt: skip
    return StudySummary(**(facts | changes))


def drawn(renderable, width=100):
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(renderable)
    return console.file.getvalue()


def test_the_live_view_tells_the_state():
    text = drawn(render(study(), ["trial 2: best accuracy so far", "trial 3: [failed]"]))
    for part in (
        "calm-fox-1: tpe + asha",
        "5 of 10 started: 1 running, 1 paused, 1 fully trained, 1 stopped early, 1 failed",
        "epoch 1: 4, epoch 3: 3, epoch 9: 1",
        "best accuracy",
        "0.9 (trial 2, epoch 4)",
        "17 epochs, 1m 30s",
        "about 1m 15s",
        "trial 3: [failed]",
    ):
        assert part in text


def test_the_live_view_fits_a_narrow_terminal_and_an_empty_study():
    text = drawn(render(study(trials=(), epochs=0, eta=None, best_trial=None), []), width=40)
    assert max(len(line) for line in text.splitlines()) <= 40
    assert "0 of 10 started" in text
    assert "none yet" in text


def test_of_many_epochs_some_are_shown():
    trials = tuple(trial(number, "KILLED", 1 + number, 0.5) for number in range(300))
    line = rungs(study(trials=trials))
    assert line.startswith("epoch 1: 300, epoch 43: 258, ")
    assert line.endswith("epoch 257: 44, epoch 300: 1")
    assert line.count("epoch") == 8


def test_trials_that_were_trained_again_saved_nothing():
    assert saved(study(epochs=67, trials=TRIALS)).startswith("nothing: 67 epochs, and 45 for full training")


def test_the_end_lists_the_best_first_and_what_was_saved():
    lines = ending(study(status="FINISHED", reason="budget of 17 epochs is spent"), top=2)
    assert lines[0].startswith("study calm-fox-1 (abc) FINISHED: ")
    assert lines[1] == "ended because: budget of 17 epochs is spent"
    assert lines[2] == "best 2 by accuracy (max):"
    assert [line.split()[2] for line in lines[3:5]] == ["2", "4"]
    assert "lr=0.01235 optimizer=[bold]sgd" in lines[3]
    assert lines[5] == "saved: 17 epochs instead of 45 for full training of every trial: 62% saved"
    assert lines[6] == "look:  http://host:5000/#/experiments/7/runs/abc?workflowType=machine_learning"


def test_infeasible_trials_are_counted_beside_the_states_and_failed_ones_are_not():
    broken = "latency_ms = 31.2, must be <= 20"
    trials = (
        *TRIALS,
        trial(5, "KILLED", 1, None, infeasible=broken),
        trial(6, "FINISHED", 9, 0.1, infeasible=broken),
        trial(7, "FAILED", 3, None, "boom", infeasible=broken),
    )
    text = states(study(trials=trials))
    assert text.endswith("2 fully trained, 2 stopped early, 2 failed (infeasible: 2)")
    assert text in " ".join(drawn(render(study(trials=trials), []), width=200).split())


@pytest.mark.parametrize(("mode", "order"), [("max", [2, 4, 1, 0]), ("min", [0, 1, 4, 2])])
def test_ranking_follows_the_mode_and_leaves_out_trials_without_a_value(mode, order):
    assert [t.trial_id for t in study(mode=mode, best_trial=None).ranked()] == order


def test_of_equal_trials_the_first_to_get_there_leads():
    tied = (trial(0, "KILLED", 3, 0.9), trial(1, "KILLED", 9, 0.9))
    assert study(trials=tied, best_trial=1).ranked()[0].trial_id == 1


def test_limits_stand_beside_what_was_spent():
    budget = {"epochs": 50.0, "hours": 2.0, "gpu_hours": 8.0, "cost": 20.0, "price_per_gpu_hour": 2.5}
    assert spent(study(budget=budget, gpu_hours=1.5)) == (
        "17 of 50 epochs, 1m 30s of 2h, 1.500 of 8.000 GPU-hours, 3.75 of 20.00 cost"
    )


def test_a_local_store_is_opened_by_mlflow_ui_and_no_password_is_printed():
    assert where_to_look(study(tracking_uri="sqlite:////x/mlflow.db")).startswith(
        "mlflow ui --backend-store-uri sqlite:////x/mlflow.db"
    )
    assert "secret" not in where_to_look(study(tracking_uri="postgresql://me:secret@db/mlflow"))
    assert "secret" not in where_to_look(study(tracking_uri="https://me:secret@mlflow.example"))


def test_an_empty_study_has_words_too():
    empty = study(trials=(), epochs=0)
    assert (states(empty), rungs(empty), best_line(empty)) == ("no trial yet", "", "none yet")
    assert saved(empty) == "nothing was trained"


def watch(view_class, **options):
    console = Console(file=io.StringIO(), width=100, **options)
    view = view_class(console)
    view.started(lambda: study())
    view.happened("trial 3: failed [red]")
    view.ticked()
    view.ended()
    return console.file.getvalue()


def test_without_a_terminal_each_event_is_a_line():
    text = watch(PlainView)
    assert "\x1b" not in text
    assert text.splitlines()[0] == "study calm-fox-1 (abc): 10 trials of tpe"
    assert text.splitlines()[1] == "trial 3: failed [red]"
    assert "look:  http://host:5000" in text


def test_in_a_terminal_the_view_is_drawn_in_place_and_gives_way_to_the_end():
    text = watch(LiveView, force_terminal=True)
    assert "calm-fox-1: tpe + asha" in text
    assert text.rstrip().endswith(
        "look:  http://host:5000/#/experiments/7/runs/abc?workflowType=machine_learning"
    )
