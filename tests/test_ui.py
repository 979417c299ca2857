"""MLflow's own web pages, in a browser, show a study: its trials nested below it, and their charts."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

from playwright.sync_api import Page, expect

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
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of an MLflow server that holds one small study."""
    folder = tmp_path_factory.mktemp("study")
    store = screenshots.run_study(
        folder, "--name", "small-study", "--trials", "3", "--max-epochs", "3", "--workers", "1"
    )
    with screenshots.mlflow_server(store, folder) as address:
        yield address


@pytest.fixture
def page() -> Iterator[Page]:
    """An empty page; errors that scripts in it do not catch fail the test."""
    errors: list[str] = []
    with screenshots.browser() as context:
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        yield page
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
    chart = page.locator(".js-plotly-plot").filter(has_text=screenshots.METRIC).first
    expect(chart.locator(".scatterlayer .trace")).to_have_count(3)
