"""Figures of a study for notebooks, by plotly; the extra `[notebook]`. The report has more of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from html import escape
from typing import TYPE_CHECKING, Any

from mlflow_hpo.checks import did_you_mean
from mlflow_hpo.errors import ConfigError
from mlflow_hpo.reports.columns import INACTIVE, improvements
from mlflow_hpo.reports.importance import importance
from mlflow_hpo.reports.notebook import EXTRA
from mlflow_hpo.reports.text import STATES
from mlflow_hpo.reports.words import brief
from mlflow_hpo.space import CategoricalParameter, Parameter
from mlflow_hpo.tracking.details import StudyDetails

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

COLOURS = {  # by fate
    "RUNNING": "#0072b2",
    "SCHEDULED": "#999999",
    "FINISHED": "#009e73",
    "KILLED": "#e69f00",
    "FAILED": "#d55e00",
}


def check_kind(kind: str) -> None:
    """Raise ConfigError unless there is such a figure."""
    if kind not in KINDS:
        raise ConfigError(
            "figure", f"must be one of {', '.join(KINDS)}, got {kind!r:.80}{did_you_mean(kind, KINDS)}"
        )


def figure(study: StudyDetails, kind: str) -> Figure:
    """Return a figure of a study.

    Args:
        study: in all its details.
        kind: "incumbent", the best value over the epochs spent; "curves", the learning curves coloured by
            fate; "parallel", the configurations as lines through their values to the best one; "importance",
            the shares of the parameters.

    Raises:
        ConfigError: there is no such figure, or plotly is not installed.
    """
    check_kind(kind)
    try:
        from plotly import graph_objects
    except ImportError as error:
        raise ConfigError("figure", EXTRA) from error
    made: Figure = KINDS[kind](graph_objects, study)
    made.update_layout(title=_text(f"{study.summary.name}: {kind}"), template="none")
    return made


def _text(text: str) -> str:
    """Return text of others for a figure, where plotly takes some tags for markup."""
    return escape(brief(text), quote=False)


def _incumbent(plotly: Any, study: StudyDetails) -> Any:
    steps = improvements(study.progress)
    line = plotly.Scatter(
        x=[step.epochs for step in steps], y=[step.best for step in steps], line={"shape": "hv"}
    )
    axes = {"xaxis_title": "epochs spent", "yaxis_title": _text(f"best {study.summary.metric}")}
    return plotly.Figure(line, axes)


def _curves(plotly: Any, study: StudyDetails) -> Any:
    lines = []
    for status, word in STATES.items():
        x: list[float | None] = []
        y: list[float | None] = []
        for trial in study.trials:
            if trial.summary.status == status and len(trial.curve[0]):
                x += [*trial.curve[0], None]
                y += [*trial.curve[1], None]
        if x:
            style = {"color": COLOURS[status]}
            lines.append(plotly.Scatter(x=x, y=y, name=word, mode="lines+markers", line=style, opacity=0.7))
    return plotly.Figure(lines, {"xaxis_title": "epoch", "yaxis_title": _text(study.summary.metric)})


def _parallel(plotly: Any, study: StudyDetails) -> Any:
    trials = [
        each.summary
        for each in study.trials
        if each.summary.best is not None and math.isfinite(each.summary.best)
    ]
    values = [trial.best for trial in trials]
    axes = [
        _axis(name, parameter, [trial.params.get(name, INACTIVE) for trial in trials])
        for name, parameter in study.space.items()
    ]
    metric = {"label": _text(study.summary.metric), "values": values}
    line = {"color": values, "colorscale": "Viridis", "reversescale": study.summary.mode == "min"}
    return plotly.Figure(plotly.Parcoords(dimensions=[*axes, metric], line=line))


def _axis(name: str, parameter: Parameter, values: list[Any]) -> dict[str, Any]:
    """Return one parameter's axis; what is not active of it is left out by plotly."""
    if isinstance(parameter, CategoricalParameter):
        places = {str(choice): place for place, choice in enumerate(parameter.choices)}
        return {
            "label": _text(name),
            "values": [math.nan if value is INACTIVE else places[str(value)] for value in values],
            "tickvals": list(places.values()),
            "ticktext": [_text(choice) for choice in places],
        }
    numbers = [math.nan if value is INACTIVE else float(value) for value in values]
    if not parameter.to_dict().get("log"):
        return {"label": _text(name), "values": numbers}
    known = sorted({number for number in numbers if not math.isnan(number)})
    shown = known[:: max(1, len(known) // 6)]
    return {
        "label": _text(name),
        "values": [math.log10(number) for number in numbers],
        "tickvals": [math.log10(number) for number in shown],
        "ticktext": [f"{number:.3g}" for number in shown],
    }


def _importance(plotly: Any, study: StudyDetails) -> Any:
    found = importance(study)
    names, shares = [_text(name) for name in found.shares], list(found.shares.values())
    bars = plotly.Bar(x=shares[::-1], y=names[::-1], orientation="h")
    return plotly.Figure(bars, {"xaxis_title": found.missing or "share"})


KINDS: Mapping[str, Callable[[Any, StudyDetails], Any]] = {
    "incumbent": _incumbent,
    "curves": _curves,
    "parallel": _parallel,
    "importance": _importance,
}
