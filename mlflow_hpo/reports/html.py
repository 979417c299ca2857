"""The report: one page of HTML that needs nothing but a browser.

The page is a frame (`report.html`), a style and a script of ours, plotly.js, and the studies as JSON; all in
one file. What others wrote (names, choices, reasons) is in that JSON alone, and the script shows it as text.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cache
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

from mlflow_hpo.reports.columns import columns
from mlflow_hpo.reports.importance import evaluator
from mlflow_hpo.tracking.details import StudyDetails

_PARTS = (  # of our script, in their order
    *("text", "study", "filters", "plots", "progress", "rungs", "parameters", "workers", "tables", "about"),
    *("comparison", "main"),
)


def page(studies: Sequence[StudyDetails]) -> str:
    """Return the report of studies as HTML.

    A browser that opens it runs the two scripts in it and no other, and asks no server for anything.
    """
    names = [study.summary.name or study.summary.run_id for study in studies]
    title = names[0] if len(names) == 1 else f"{len(names)} studies"
    plotly, script = _plotly(), _script()
    allowed = " ".join(f"'sha256-{_sha256(each)}'" for each in (plotly, script))
    return Template(_part("report.html")).substitute(
        csp=f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'",
        title=escape(f"{title[:100]} - mlflow_hpo report"),
        style=_part("report.css"),
        data=as_script_data({"studies": [columns(study) for study in studies]}),
        plotly=plotly,
        script=script,
    )


def as_script_data(data: Mapping[str, Any]) -> str:
    """Return plain data as JSON that no HTML parser takes for markup.

    >>> as_script_data({"name": "</script>"})
    '{"name":"\\\\u003c/script>"}'
    """
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c")


def prepare() -> None:
    """Import and read what a page needs and what takes a while, for the next call of `page`."""
    evaluator()
    _plotly()
    _script()


@cache
def _plotly() -> str:
    return _whole(_part("plotly-cartesian.min.js"))


@cache
def _script() -> str:
    parts = "\n".join(_part(f"{name}.js") for name in _PARTS)
    return _whole(f'"use strict";\n(() => {{\n{parts}}})();\n')


def _part(name: str) -> str:
    return (files("mlflow_hpo.reports") / "page" / name).read_text(encoding="utf-8")


def _whole(script: str) -> str:
    if "</script" in script.lower() or "<!--" in script:
        raise ValueError("the script would end before its end")
    return script


@cache
def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
