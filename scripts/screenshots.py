"""Take the pictures of the README and the guide: a study as MLflow's own web pages and its report show it.

    python scripts/screenshots.py                                # runs the bundled search first
    python scripts/screenshots.py --store sqlite:///mlflow.db    # the newest study of an existing store

Needs Playwright (the Python package alone) and Debian's Chromium.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import mlflow
from mlflow.tracking import MlflowClient
from PIL import Image
from playwright.sync_api import BrowserContext, Page, sync_playwright

from mlflow_hpo.reports.html import page as report_page
from mlflow_hpo.tracking.details import read_details

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
VIEWPORT = (1500, 950)
PATIENCE = 60.0  # seconds for the server to start, and for the pages to draw
MLFLOW_SERVER = (sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--workers", "1")
IMAGES = Path(__file__).parent.parent / "docs" / "images"

# where things are in MLflow's pages
ROW = ".ag-row"
TRIAL = re.compile(r"trial-\d{4}")
CHART = "[data-testid=experiment-view-compare-runs-card]"
LINES = ".js-plotly-plot .scatterlayer .trace"
PARALLEL = ".parcoords canvas"

METRIC = "val_accuracy"
COLUMNS = {  # of the table of runs, with their widths in pixels
    "duration": 80,
    f"metrics.`best_{METRIC}`": 140,
    "params.`optimizer`": 90,
    "params.`learning_rate`": 105,
    "params.`batch_size`": 95,
    "params.`normalisation`": 110,
    "tags.`hpo.epochs`": 95,
    "tags.`hpo.stop_reason`": 265,
}
AXES = ("learning_rate", "weight_decay", "batch_size", "layers", "width", "dropout")


def run_study(folder: Path) -> str:
    """Run the bundled search; return the URI of the store, a new one in `folder`."""
    store = f"sqlite:///{folder / 'mlflow.db'}"
    subprocess.run(
        [Path(sys.executable).with_name("mlflow-hpo"), "run", "--plain", "--name", "digits-study"],
        cwd=folder,
        env={**os.environ, "MLFLOW_TRACKING_URI": store},
        check=True,
    )
    return store


@contextlib.contextmanager
def mlflow_server(store: str, folder: Path) -> Iterator[str]:
    """Serve `store` on a free port of loopback, logging to `folder`; yields the address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    log = folder / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*MLFLOW_SERVER, "--backend-store-uri", store, "--port", str(port)],
            cwd=folder,
            env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # it has children, which go with their process group
        )
        try:
            _wait_for(address, process, log)
            yield address
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


@contextlib.contextmanager
def browser(ui_state: dict[str, Any] | None = None) -> Iterator[BrowserContext]:
    """Start Chromium; `ui_state` is what MLflow's page of experiment 0 remembers of an earlier visit."""
    remembered = {
        # on the first visit the assistant's panel would open, over a third of the page
        "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1": "true",
        "mlflow.assistant.panelOpen_v1": "false",
    }
    if ui_state is not None:
        remembered['MLflowLocalStorage-1.1-ExperimentPage-["0"]-ReactComponentState'] = json.dumps(ui_state)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        try:
            width, height = VIEWPORT
            context = chromium.new_context(viewport={"width": width, "height": height})
            context.set_default_timeout(PATIENCE * 1000)
            context.add_init_script(
                f"for (const [key, value] of Object.entries({json.dumps(remembered)}))"
                " if (localStorage.getItem(key) === null) localStorage.setItem(key, value);"
            )
            yield context
        finally:
            chromium.close()


def open_runs(page: Page, address: str, **query: str) -> None:
    """Open the runs of experiment 0, in the layout that MLflow has for model training."""
    query = {"workflowType": "machine_learning", **query}
    page.goto(f"{address}/#/experiments/0/runs?{urlencode(query)}")
    page.locator(ROW).first.wait_for()


def open_charts(page: Page, address: str) -> None:
    """Open the charts of the trials, best first, and wait until one has drawn its lines."""
    open_runs(
        page,
        address,
        compareRunsMode="CHART",
        searchFilter="tags.`hpo.kind` = 'trial'",
        orderByKey=f"metrics.`{METRIC}`",
        orderByAsc="false",
    )
    page.locator(LINES).first.wait_for(state="attached")


def take_pictures(store: str, folder: Path, images: Path) -> None:
    """Take the pictures of the newest study in `store`."""
    found = MlflowClient(store).search_runs(["0"], "tags.`hpo.kind` = 'study'", max_results=1)
    if not found:
        raise SystemExit(f"{store} holds no study in experiment 0")
    study = found[0].info.run_id
    images.mkdir(parents=True, exist_ok=True)
    with mlflow_server(store, folder) as address, browser(_ui_state(study)) as context:
        page = context.new_page()
        open_runs(page, address)
        page.get_by_role("button", name="Toggle sidebar").click()  # the table needs the room
        page.locator(ROW).filter(has_text=TRIAL).first.wait_for()
        _shoot(page, images / "mlflow-runs.png")
        open_charts(page, address)
        page.locator(PARALLEL).first.wait_for()
        _shoot(page, images / "mlflow-chart.png")
        page.goto(f"{address}/#/experiments/0/runs/{study}?workflowType=machine_learning")
        page.get_by_text(f"best_{METRIC}").first.wait_for()
        page.get_by_text(TRIAL).first.wait_for()
        _shoot(page, images / "mlflow-parent.png")
        take_report(page, store, study, folder, images)


def take_report(page: Page, store: str, study: str, folder: Path, images: Path) -> None:
    """Take the picture of a study's report."""
    mlflow.set_tracking_uri(store)
    file = folder / "report.html"
    file.write_text(report_page([read_details(study)]), encoding="utf-8", newline="")
    page.set_viewport_size({"width": 1280, "height": 1360})
    page.goto(file.as_uri())
    page.locator("#plot-incumbent .scatterlayer .trace").first.wait_for()
    _shoot(page, images / "report.png")


def _ui_state(study: str) -> dict[str, Any]:
    """Return the columns, charts and the expanded run to show, as MLflow's page keeps them."""
    section = {
        "uuid": "trials",
        "name": "Trials",
        "display": True,
        "isReordered": True,
        "columns": 1,
        "cardHeight": 325,
    }
    line = {
        "uuid": "curves",
        "type": "LINE",
        "metricKey": METRIC,
        "selectedMetricKeys": [METRIC],
        "lineSmoothness": 0,
        "scaleType": "linear",
        "xAxisScaleType": "linear",
        "range": {"xMin": 0, "xMax": 28, "yMin": 0.85, "yMax": 1},  # where the good ones part
        "xAxisKey": "step",
        "useGlobalXaxisKey": False,
    }
    parallel = {
        "uuid": "parallel",
        "type": "PARALLEL",
        "selectedParams": list(AXES),
        "selectedMetrics": [METRIC],
        "showAllRuns": True,
    }
    common = {"metricSectionId": section["uuid"], "deleted": False, "isGenerated": False}
    return {
        "selectedColumns": [column for column in COLUMNS if "`" in column],
        "columnOrder": list(COLUMNS),
        "columnWidths": COLUMNS,
        "runsExpanded": {study: True},
        "runsHiddenMode": "SHOW_ALL",
        "compareRunSections": [section],
        "compareRunCharts": [line | common, parallel | common],
    }


def _shoot(page: Page, path: Path) -> None:
    page.mouse.move(0, 0)  # away from anything that reacts to hovering
    page.wait_for_timeout(2_000)  # for what fades in
    page.screenshot(path=path, style="[data-assistant-ui] { display: none }")
    with Image.open(path) as image:  # 256 colours cost no visible quality and spare two thirds of the bytes
        image.convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=3).save(path, optimize=True)


def _wait_for(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < end:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{address}/health", timeout=5):
            return
        time.sleep(0.2)
    raise RuntimeError(f"mlflow server did not start:\n{log.read_text(errors='replace')[-2000:]}")


def main() -> None:
    """Take the pictures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--store", help="MLflow's database, as in MLFLOW_TRACKING_URI")
    parser.add_argument("--images", type=Path, default=IMAGES, help="folder for the pictures")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = options.store or run_study(folder)
        take_pictures(store, folder, options.images)


if __name__ == "__main__":
    main()
