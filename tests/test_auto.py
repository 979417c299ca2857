import pytest

from mlflow_hpo import ConfigError, Optimizer, SearchSpace
from mlflow_hpo.auto import MOST_FEATURES, MOST_WORKERS, choose
from mlflow_hpo.schedulers.asha import AshaScheduler
from mlflow_hpo.schedulers.freeze_thaw import FreezeThawScheduler
from mlflow_hpo.schedulers.full import FullScheduler
from mlflow_hpo.searchers.freeze_thaw import FreezeThawSearcher
from mlflow_hpo.searchers.tpe import TpeSearcher
from mlflow_hpo.testing import SPACE


def wide(features):
    return SearchSpace({f"x{i}": {"type": "float", "low": 0, "high": 1} for i in range(features)})


def chosen(space=SPACE, searcher="auto", scheduler="auto", last=27, workers=4):
    choice = choose(space, searcher, scheduler, min_resource=1, max_resource=last, workers=workers)
    return choice.searcher, choice.scheduler


def test_learning_curves_are_modelled_where_that_pays():
    assert chosen() == ("freeze_thaw", "freeze_thaw")
    assert chosen(wide(MOST_FEATURES)) == ("freeze_thaw", "freeze_thaw")


def test_a_wide_space_has_no_model_of_the_curves():
    assert chosen(wide(MOST_FEATURES + 1)) == ("tpe", "asha")
    choices = SearchSpace({"x": {"type": "categorical", "choices": list(range(MOST_FEATURES + 1))}})
    assert chosen(choices) == ("tpe", "asha")


def test_very_many_workers_do_not_wait_for_a_model():
    assert chosen(workers=MOST_WORKERS) == ("freeze_thaw", "freeze_thaw")
    assert chosen(workers=MOST_WORKERS + 1) == ("sobol", "asha")


def test_one_resource_leaves_nothing_to_stop():
    assert chosen(last=1) == ("tpe", "full")


@pytest.mark.parametrize("given", ["asha", {"name": "hyperband", "eta": 2}, FullScheduler(1, 27)])
def test_beside_another_scheduler_it_is_tpe(given):
    assert chosen(scheduler=given)[0] == "tpe"


def test_beside_another_searcher_it_is_asha():
    assert chosen(searcher="random")[1] == "asha"


def test_the_one_is_chosen_where_the_other_is_asked_for():
    assert chosen(searcher="freeze_thaw") == ("freeze_thaw", "freeze_thaw")
    assert chosen(scheduler={"name": "freeze_thaw", "eta": 3}) == ("freeze_thaw", "freeze_thaw")


def test_of_what_was_given_nothing_is_told():
    beside = choose(SPACE, "auto", "hyperband", min_resource=1, max_resource=27)
    assert beside.told == "searcher auto is tpe: it goes with any other scheduler"
    assert str(choose(SPACE, "random", "auto", min_resource=1, max_resource=27)).startswith(
        "scheduler asha: "
    )
    assert str(choose(SPACE, "auto", "full", min_resource=9, max_resource=9)).startswith("searcher tpe: ")


def test_every_choice_says_why():
    for space, last, workers in [(SPACE, 27, 4), (wide(99), 27, 4), (SPACE, 1, 4), (SPACE, 27, 9999)]:
        choice = choose(space, "auto", "auto", min_resource=1, max_resource=last, workers=workers)
        assert str(choice) == f"{choice.searcher} + {choice.scheduler}: {choice.reason}"
        assert len(choice.reason) > 20


def test_the_optimizer_takes_what_is_chosen():
    def made(**arguments):
        optimizer = Optimizer(SPACE, **{"max_resource": 9} | arguments)
        return type(optimizer.searcher), type(optimizer._scheduler)

    assert made() == (FreezeThawSearcher, FreezeThawScheduler)
    assert made(max_resource=1) == (TpeSearcher, FullScheduler)
    assert made(searcher="tpe") == (TpeSearcher, AshaScheduler)
    assert made(scheduler="full") == (TpeSearcher, FullScheduler)


def test_options_go_to_what_is_chosen():
    scheduler = Optimizer(SPACE, max_resource=9, scheduler={"name": "auto", "eta": 3})._scheduler
    assert scheduler.levels == (1, 3, 9)
    with pytest.raises(ConfigError, match=r"searcher.nonsense: is no option of freeze_thaw"):
        Optimizer(SPACE, max_resource=9, searcher={"name": "auto", "nonsense": 3})
    with pytest.raises(ConfigError, match="workers: must be"):
        Optimizer(SPACE, workers=0)
