"""The report in a browser: it draws, filters, sorts, executes nothing of others, and asks no server."""

import os
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from mlflow.tracking import MlflowClient
from recorded import SPACE, recorded

from mlflow_hpo.reports.html import page as report_page

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

from playwright.sync_api import expect, sync_playwright

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = ("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")
PLOTS = ("incumbent", "curves", "rungs", "importance", "parallel", "slices", "contour", "timeline", "cost")
HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(2)>",
    "</script><script>alert(3)</script>",
    "../../x",
    "日本 ünï 🦊",
    '"quo\'tes" `ticks` ${alert(4)} %{x}',
    "\u202egnp.exe\u200f",
    "<b>bold</b> <a href='javascript:alert(5)'>link</a>",
    "two\nlines\r\n\x1b[31m",
    "constructor",
]
LONG = "long" * 2_500
STUDY = """
import mlflow
from mlflow_hpo import tune

def train(trial):
    if trial.params["x"] > 0.85:
        raise ValueError("x is too large")
    for epoch in trial.epochs():
        trial.report(epoch, val_accuracy=1 - trial.params["x"] / (epoch + trial.params.get("slope", 0)))

space = {
    "x": {"type": "float", "low": 0.1, "high": 0.9},
    "kind": {"type": "categorical", "choices": ["round", "flat"]},
    "slope": {"type": "float", "low": 0.0, "high": 1.0, "when": {"kind": "flat"}},
}
keys = dict(metric="val_accuracy", mode="max", searcher="random", scheduler="asha", max_resource=9, workers=1)
if __name__ == "__main__":
    tune(train, space, trials=6, name="earlier", **keys)
    tune(train, space, trials=24, seed=3, name="small-study", warm_start=["Default"], **keys)
"""

pytestmark = [
    pytest.mark.servers,
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"{CHROMIUM} (Debian's Chromium) is missing"),
]


@pytest.fixture(scope="module")
def chromium():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def opened(chromium, tmp_path):
    """Open a page with the given HTML; whatever it logs, raises, asks for or alerts fails the test."""
    wrong = []
    contexts = []

    def open_page(html, *, width=1280, height=900, **options):
        file = tmp_path / f"report-{len(contexts)}.html"
        file.write_text(html, encoding="utf-8", newline="")
        contexts.append(chromium.new_context(viewport={"width": width, "height": height}, **options))
        page = contexts[-1].new_page()
        page.set_default_timeout(60_000)
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: request.url == file.as_uri() or wrong.append(request.url))
        page.goto(file.as_uri())
        expect(page.locator("#trials-table tbody tr").first).to_be_visible()
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert wrong == []


@pytest.fixture(scope="module")
def folder(empty_store, tmp_path_factory):
    """A folder with an MLflow store that holds a study with a warm start, and stopped and failed trials."""
    folder = tmp_path_factory.mktemp("study")
    shutil.copyfile(empty_store, folder / "mlflow.db")
    (folder / "study.py").write_text(STUDY, encoding="utf-8")
    environment = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}"}
    subprocess.run([sys.executable, "study.py"], cwd=folder, env=environment, check=True)
    return folder


@pytest.fixture(scope="module")
def parent(folder):
    """The parent run of that study."""
    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    [run] = client.search_runs(["0"], "attributes.run_name = 'small-study'")
    return run


def drawn(page):
    """Bring every plot into view; return how many points each of them shows, by name."""
    for name in page.locator(".plot").evaluate_all("plots => plots.map(plot => plot.id)"):
        page.locator(f"#{name}").scroll_into_view_if_needed()
        page.wait_for_function("id => document.getElementById(id).dataset.drawn", arg=name)
    return page.evaluate(
        "() => Object.fromEntries([...document.querySelectorAll('.plot')].map(plot => [plot.id.slice(5),"
        " (plot.data ?? []).flatMap(trace => trace.x).filter(x => x !== null).length]))"
    )


def points(page, name):
    """Return how many trials a plot shows once it is up to date."""
    page.wait_for_function("id => !document.getElementById(id).plot.stale", arg=f"plot-{name}")
    code = "plot => new Set(plot.data.flatMap(trace => trace.customdata ?? []).filter(i => i !== null)).size"
    return page.locator(f"#plot-{name}").evaluate(code)


def column(page, number):
    return page.locator(f"#trials-table tbody tr td:nth-child({number})").all_inner_texts()


@contextmanager
def set_open(page, summary):
    details = page.locator("details", has=page.get_by_text(summary, exact=True))
    details.locator("summary").first.click()
    yield details


def test_the_report_of_a_real_study_draws_everything(opened, parent):
    artifacts = Path(unquote(urlsplit(parent.info.artifact_uri).path))
    page = opened((artifacts / "report.html").read_text(encoding="utf-8"))
    expect(page.get_by_role("heading", level=1)).to_contain_text("small-study")
    counts = drawn(page)
    assert {name: count for name, count in counts.items() if not count} == {}
    assert set(counts) == set(PLOTS)
    expect(page.locator("#failures")).to_contain_text("x is too large")
    expect(page.locator("#warm")).to_contain_text("took a configuration that was good before")
    expect(page.locator("#best")).to_contain_text("val_accuracy")
    assert points(page, "incumbent") == points(page, "slices") > 10


@pytest.mark.parametrize("by", ["trials", "epochs", "time"])
def test_the_incumbent_over(opened, by):
    page = opened(report_page([recorded()]))
    page.get_by_label("over").select_option(by)
    points(page, "incumbent")
    line = page.locator("#plot-incumbent").evaluate("plot => plot.data.at(-1)")
    assert line["name"] == "best so far"
    assert line["y"] == sorted(line["y"])
    assert line["x"] == sorted(line["x"])


def test_filters_hold_for_plots_and_table(opened):
    page = opened(report_page([recorded(120)]))
    drawn(page)
    count = page.locator("#shown-count")
    expect(count).to_have_text("120 of 120 trials")

    page.locator("#filter-text").fill("out of memory")
    expect(count).to_have_text("12 of 120 trials")
    assert set(column(page, 2)) == {"failed"}
    page.locator("#incumbent").scroll_into_view_if_needed()
    assert points(page, "incumbent") == 12

    page.get_by_role("button", name="Clear filters").click()
    expect(count).to_have_text("120 of 120 trials")
    page.get_by_text("By status, value and parameters").click()
    page.get_by_label("failed (12)").uncheck()
    expect(count).to_have_text("108 of 120 trials")
    page.get_by_label("learning_rate: at least").fill("0.01")
    page.get_by_label("sgd").uncheck()
    expect(count).not_to_have_text("108 of 120 trials")
    shown = int(count.inner_text().split()[0])
    assert 0 < shown < 60
    assert all(float(value) >= 0.01 for value in column(page, 6))
    assert "sgd" not in column(page, 9)
    page.locator("#slices").scroll_into_view_if_needed()
    assert points(page, "slices") == shown
    page.locator("#filter-text").fill("nothing has this")
    expect(page.locator("#trials")).to_contain_text("No trial passes the filters.")


def test_headings_sort_by_keyboard(opened):
    page = opened(report_page([recorded(120)]))
    best = page.get_by_role("columnheader", name="best val_accuracy")
    expect(best).to_have_attribute("aria-sort", "descending")
    heading = page.get_by_role("columnheader", name="learning_rate")
    heading.get_by_role("button").focus()
    for order, reverse in (("ascending", False), ("descending", True)):
        page.keyboard.press("Enter")
        expect(heading).to_have_attribute("aria-sort", order)
        values = [float(value) for value in column(page, 6)]
        assert values == sorted(values, reverse=reverse)
    assert page.evaluate("document.activeElement.closest('th').innerText").startswith("learning_rate")
    expect(page.locator("#trials")).to_contain_text("page 1 of 3")
    page.locator("#trials").get_by_role("button", name="Last").press("Enter")
    assert page.evaluate("document.activeElement.innerText") == "First"
    assert len(column(page, 1)) == 20


def test_the_keyboard_reaches_everything(opened):
    page = opened(report_page([recorded()]))
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    reached = set()
    for _ in range(120):
        page.keyboard.press("Tab")
        at = page.evaluate(
            "() => { const at = document.activeElement; return [at.tagName, at.id || at.innerText,"
            " getComputedStyle(at).outlineStyle] }"
        )
        assert at[2] != "none" or at[0] == "BODY", f"the focus on {at} is not seen"
        reached.add(at[1].strip())
    assert {"filter-text", "incumbent-by", "contour-x", "contour-y", "level"} <= reached
    assert {"The same as a table", "By status, value and parameters", "learning_rate"} <= reached

    page.get_by_role("button", name="all of trial 3").first.press("Enter")
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("Trial 3")
    assert page.evaluate("document.activeElement.innerText") == "Close"
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()


def test_every_plot_stands_as_a_table_too(opened):
    page = opened(report_page([recorded()]))
    drawn(page)
    for name in PLOTS:
        section = page.locator(f"section#{name}")
        section.get_by_text("The same as a table").click()
        expect(section.locator("details.data table tbody tr").first).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_it_fits_the_screen_in_both_schemes(opened, scheme, width):
    studies = [recorded(name=LONG, metric="m" * 200), recorded(seed=1)]
    page = opened(report_page(studies), width=width, color_scheme=scheme)
    drawn(page)
    page.get_by_text("By status, value and parameters").click()
    page.get_by_role("button", name="all of trial").first.click()
    assert page.evaluate("document.documentElement.scrollWidth") == width
    page.keyboard.press("Escape")

    def ground():
        colours = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/[0-9]+/g)")
        return "dark" if sum(map(int, colours)) < 200 else "light"

    assert ground() == scheme
    page.get_by_label("Colours").select_option({"light": "dark", "dark": "light"}[scheme])
    assert ground() != scheme


def test_names_that_were_made_to_harm(opened):
    space = {
        "__proto__": {"type": "categorical", "choices": [*HOSTILE, LONG[:6_000]]},
        "constructor": {"type": "float", "low": 1e-5, "high": 1.0, "log": True},
        "日本 ünï/x.y: z-" + "n" * 200: {"type": "int", "low": 1, "high": 9},
        "toString": {"type": "float", "low": 0.0, "high": 1.0},
    }
    studies = [
        recorded(40, space=space, name=text, reason=text, experiment=text, metric=f"m {place}")
        for place, text in enumerate([*HOSTILE, LONG])
    ]
    page = opened(report_page(studies))
    for place, text in enumerate([*HOSTILE, LONG]):
        if place in (0, 2, 6, len(HOSTILE)):
            page.locator("#study").select_option(str(place))
            assert {name: count for name, count in drawn(page).items() if not count} == {}
            page.get_by_text("By status, value and parameters").click()
            if text is LONG:
                heading = page.get_by_role("heading", level=1)
                heading.get_by_role("button", name="show all 10,000 characters").click()
                expect(heading).to_contain_text(LONG)
    page.locator("#study").select_option("0")
    expect(page.get_by_role("heading", level=1)).to_contain_text("<script>alert(1)</script>")
    expect(page.locator("#failures")).to_contain_text("<script>alert(1)</script>")
    expect(page.get_by_role("columnheader", name="__proto__")).to_be_visible()
    assert page.locator("main b, main a[href^=javascript], main img, main script").count() == 0
    assert "\u202e" not in page.content().partition('id="data"')[0]


def test_several_studies_side_by_side(opened):
    studies = [recorded(30, seed=seed, name=f"study-{seed}") for seed in range(3)]
    page = opened(report_page(studies))
    drawn(page)
    names = page.locator("#plot-comparison").evaluate("plot => plot.data.map(trace => trace.name)")
    assert names == ["study-0", "study-1", "study-2"]
    expect(page.locator("#comparison table").first).to_contain_text("study-2")
    page.locator("#study").select_option("2")
    expect(page.get_by_role("heading", level=1)).to_contain_text("study-2")


def test_trials_can_be_compared_at_one_epoch(opened):
    page = opened(report_page([recorded(60)]))
    page.get_by_label("Parallel coordinates, slices and contour compare").select_option("3")
    drawn(page)
    title = page.locator("#plot-slices").evaluate("plot => plot.layout.yaxis.title.text")
    assert title == "val_accuracy at epoch 3"
    assert 0 < points(page, "slices") < 60


def test_a_study_without_a_value(opened):
    study = recorded(3, space=SPACE)
    for trial in study.trials:
        object.__setattr__(trial.summary, "best", None)
        object.__setattr__(trial, "curve", ([], []))
    object.__setattr__(study, "progress", ())
    page = opened(report_page([study]))
    drawn(page)
    expect(page.locator("#incumbent")).to_contain_text("No trial has a feasible value yet.")
    expect(page.locator("#importance")).to_contain_text("It takes 20 trials with a value")


def test_five_thousand_trials_of_twenty_epochs(opened, capsys):
    html = report_page([recorded(5_000, 20, stops=False)])
    began = time.monotonic()
    page = opened(html)
    table = time.monotonic() - began
    page.locator("#incumbent").scroll_into_view_if_needed()
    page.wait_for_function("document.getElementById('plot-incumbent').dataset.drawn")
    with capsys.disabled():
        took = time.monotonic() - began
        print(
            f"\n5,000 trials of 20 epochs, {len(html) / 1e6:.1f} MB: "
            f"table after {table:.2f} s, plot after {took:.2f} s"
        )
    expect(page.locator("#shown-count")).to_have_text("5,000 of 5,000 trials")
    assert len(column(page, 1)) == 50
    counts = drawn(page)
    assert all(0 < count < 25_000 for count in counts.values()), counts
    assert page.evaluate("document.querySelectorAll('*').length") < 20_000
    page.locator("#filter-text").fill("failed")
    expect(page.locator("#shown-count")).to_have_text("500 of 5,000 trials")


def test_mlflow_shows_the_report_of_the_parent_run(chromium, folder, parent):
    from test_ui import screenshots

    with screenshots.mlflow_server(f"sqlite:///{folder / 'mlflow.db'}", folder) as address:
        context = chromium.new_context(viewport={"width": 1500, "height": 950})
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.goto(f"{address}/#/experiments/0/runs/{parent.info.run_id}/artifacts/report.html")
        frame = page.frame_locator("iframe")
        expect(frame.get_by_role("heading", level=1)).to_contain_text("small-study", timeout=60_000)
        frame.locator("#plot-incumbent").scroll_into_view_if_needed()
        expect(frame.locator("#plot-incumbent .scatterlayer .trace").first).to_be_attached(timeout=60_000)
        context.close()


def test_the_browser_runs_no_other_script_and_asks_no_server(chromium, tmp_path):
    file = tmp_path / "report.html"
    planted = "<script>window.planted = 1</script><img src=x onerror='window.planted = 2'>"
    file.write_text(report_page([recorded()]).replace("<noscript>", f"{planted}<noscript>"), encoding="utf-8")
    context = chromium.new_context()
    page = context.new_page()
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(file.as_uri())
    expect(page.locator("#trials-table tbody tr").first).to_be_visible()
    assert page.evaluate("window.planted") is None
    code = "fetch('http://127.0.0.1:9/').then(() => 'answered', error => error.name)"
    assert page.evaluate(code) == "TypeError"
    assert [url for url in asked if not url.startswith("file:")] == []
    context.close()
