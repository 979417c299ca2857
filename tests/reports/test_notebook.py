"""A study in a notebook: started in a thread, shown as HTML and as figures."""

import math
import re
import sys
from concurrent.futures import wait
from importlib.util import find_spec

import pytest
import trainings

from mlflow_hpo import ConfigError, SearchSpace, Study, StudyError
from mlflow_hpo.reports.columns import INACTIVE
from mlflow_hpo.reports.figures import KINDS, _axis, figure
from mlflow_hpo.reports.notebook import study_html
from mlflow_hpo.tracking.details import read_details

KEYS = {"metric": "loss", "mode": "min", "searcher": "random", "max_resource": 3, "trials": 6, "seed": 1}


@pytest.fixture
def shown(monkeypatch, tmp_path):
    """What a notebook is told to show: (HTML, whether it replaces what was shown)."""
    pytest.importorskip("IPython", reason="the extra [notebook] is not installed")
    from IPython.core.displaypub import CapturingDisplayPublisher
    from IPython.core.interactiveshell import InteractiveShell

    monkeypatch.delenv("VIRTUAL_ENV", raising=False)  # it warns where that is not its own
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    shell = InteractiveShell.instance()
    publisher = CapturingDisplayPublisher(shell=shell)
    monkeypatch.setattr(shell, "display_pub", publisher)
    yield publisher.outputs
    InteractiveShell.clear_instance()


def test_a_study_runs_in_the_background_and_is_drawn_again(store, shown):
    from mlflow_hpo.reports.notebook import NotebookView

    study = Study(trainings.quick, trainings.SPACE, listener=NotebookView(), scheduler="asha", **KEYS)
    assert study._repr_html_() == "a study that has not begun"
    with pytest.raises(StudyError, match="not started"):
        study.wait()
    study.start()
    assert store.get_run(study.run_id).info.status in ("RUNNING", "FINISHED")
    with pytest.raises(StudyError, match="runs once"):
        study.start()
    assert study.run_id in study._repr_html_()
    best = study.wait()
    assert study.best == best
    drawn = [output["data"]["text/html"] for output in shown]
    assert "RUNNING" in drawn[0]
    assert "FINISHED" in drawn[-1]
    assert [output["update"] for output in shown] == [False] + [True] * (len(shown) - 1)
    assert f"{best.value:.6g}" in drawn[-1]
    assert drawn[-1] == study._repr_html_()


def test_the_stop_button_ends_it_in_good_order(store, monkeypatch):
    study = Study(trainings.endless_epoch, trainings.SPACE, scheduler="full", **KEYS)
    study.start()
    pressed = []

    def pressed_once(ends, timeout=None):
        if not pressed:
            pressed.append(True)
            raise KeyboardInterrupt
        return wait(ends, timeout)

    monkeypatch.setattr("mlflow_hpo.background.wait", pressed_once)
    with pytest.raises(KeyboardInterrupt):
        study.wait()
    assert store.get_run(study.run_id).info.status == "KILLED"
    assert study.summary().reason == "interrupted"


def test_what_fails_in_the_background_is_raised_where_it_is_waited_for(store):
    study = Study(trainings.raises, trainings.SPACE, scheduler="full", **KEYS)
    study.start()
    with pytest.raises(StudyError, match="none succeeded"):
        study.wait()


def test_names_of_others_are_no_markup_and_a_missing_extra_is_named(store, monkeypatch):
    evil = "<script>alert(1)</script>"
    space = {"x": {"type": "categorical", "choices": [evil, "b"]}}
    study = Study(trainings.whatever, space, name=evil, **{**KEYS, "max_resource": 1, "trials": 2})
    study.run()
    html = study_html(study.summary(), [evil])
    assert "<script" not in html
    assert html.count("&lt;script&gt;") >= 3
    assert set(re.findall(r"<(\w+)", html)) == {"table", "tr", "th", "td", "div"}
    if find_spec("plotly"):
        for kind in KINDS:
            assert "<script" not in study.figure(kind).to_json()
    monkeypatch.setitem(sys.modules, "plotly", None)
    with pytest.raises(ConfigError, match=r"figure: this needs .* 'mlflow-hpo\[notebook\]'"):
        figure(read_details(study.run_id), "curves")
    monkeypatch.setitem(sys.modules, "IPython.display", None)
    from mlflow_hpo.reports.notebook import NotebookView

    with pytest.raises(ConfigError, match="listener: this needs the extra"):
        NotebookView()


def test_figures(store):
    pytest.importorskip("plotly", reason="the extra [notebook] is not installed")
    study = Study(trainings.quick, trainings.SPACE, scheduler="asha", **{**KEYS, "trials": 24})
    with pytest.raises(StudyError, match="run\\(\\) it first"):
        study.figure("curves")
    with pytest.raises(ConfigError, match="figure: must be one of incumbent, .*did you mean 'curves'"):
        study.figure("curve")
    study.run()
    curves = study.figure("curves")
    points = sum(value is not None for line in curves.data for value in line.y)
    assert points == sum(trial.epochs for trial in study.summary().trials)
    assert {line.name for line in curves.data} == {"fully trained", "stopped early"}
    assert study.figure("incumbent").data[0].y[-1] == study.best.value
    axes = study.figure("parallel").data[0].dimensions
    assert [axis.label for axis in axes] == [*trainings.SPACE, "loss"]
    assert len(axes[0]["values"]) == 24
    assert study.figure("incumbent").layout.title.text == f"{study.summary().name}: incumbent"
    assert sum(study.figure("importance").data[0].x) == pytest.approx(1.0, abs=1e-3)


def test_none_may_be_a_choice_and_is_active_then():
    space = SearchSpace({"penalty": {"type": "categorical", "choices": ["l1", None]}})
    axis = _axis("penalty", space["penalty"], ["l1", None, INACTIVE])
    assert axis["values"][:2] == [0, 1]
    assert math.isnan(axis["values"][2])
