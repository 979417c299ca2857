"""MLflow's own web pages, in a browser, show a study: its trials nested below it, and their charts."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

from playwright.sync_api import BrowserContext, Page, expect

STUDY = """
from mlflow_hpo import tune

def train(trial):
    for epoch in trial.epochs():
        trial.report(epoch, val_accuracy=1 - trial.params["x"] / epoch)

if __name__ == "__main__":
    tune(
        train, {"x": {"type": "float", "low": 0.1, "high": 0.9}},
        metric="val_accuracy", mode="max", searcher="random", scheduler="full",
        trials=3, max_resource=3, workers=1, name="small-study",
    )
"""
SCRIPT = Path(__file__).parent.parent / "scripts" / "screenshots.py"


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


screenshots = _load(SCRIPT)

pytestmark = [
    pytest.mark.servers,
    pytest.mark.skipif(
        not screenshots.CHROMIUM.exists(), reason=f"{screenshots.CHROMIUM} (Debian's Chromium) is missing"
    ),
]


@pytest.fixture(scope="module")
def address(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of an MLflow server that holds one small study."""
    folder = tmp_path_factory.mktemp("study")
    store = f"sqlite:///{shutil.copyfile(empty_store, folder / 'mlflow.db')}"
    (folder / "study.py").write_text(STUDY, encoding="utf-8")
    subprocess.run(
        [sys.executable, "study.py"], cwd=folder, env={**os.environ, "MLFLOW_TRACKING_URI": store}, check=True
    )
    with screenshots.mlflow_server(store, folder) as address:
        yield address


@pytest.fixture(scope="module")
def context() -> Iterator[BrowserContext]:
    with screenshots.browser() as context:
        yield context


@pytest.fixture
def page(context: BrowserContext) -> Iterator[Page]:
    """An empty page; errors that its scripts do not catch fail the test."""
    errors: list[str] = []
    page = context.new_page()
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page
    page.close()
    assert errors == []


def test_trials_are_nested_below_their_study(page: Page, address: str) -> None:
    screenshots.open_runs(page, address)
    rows = page.locator(screenshots.ROW)
    trials = rows.filter(has_text=screenshots.TRIAL)
    parent = rows.filter(has_text="small-study")
    expect(parent).to_have_count(1)
    expect(trials).to_have_count(0)

    parent.get_by_role("button").first.click()

    expect(trials).to_have_count(3)
    for number in range(3):
        expect(trials.filter(has_text=f"trial-{number:04d}")).to_have_count(1)


def test_charts_draw_a_line_for_every_trial(page: Page, address: str) -> None:
    screenshots.open_charts(page, address)

    expect(page.locator(screenshots.ROW).filter(has_text=screenshots.TRIAL)).to_have_count(3)
    # a chart's text begins with its metric; best_val_accuracy has one, too
    chart = page.locator(screenshots.CHART).filter(has_text=re.compile(rf"^\s*{screenshots.METRIC}"))
    expect(chart).to_have_count(1)
    for number in range(3):
        expect(chart).to_contain_text(f"trial-{number:04d}")
    assert chart.locator(screenshots.LINES).count() >= 3
