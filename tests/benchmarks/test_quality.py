import pytest
from lcbench import Task
from quality import NOTHING_FOUND, assess
from reference import Reference, find_reference
from report import markdown_table, write_section
from simulator import Trace
from synthetic import Rising

TASK, OTHER = Task("1", "one"), Task("2", "two")
REFERENCES = {TASK: Reference(best=100.0, median=90.0), OTHER: Reference(best=1.0, median=0.0)}


def trace(*steps):
    return Trace([(epochs, float(epochs), value) for epochs, value in steps], steps[-1][0], 0.0, 1)


def test_regret_is_zero_at_the_best_and_one_at_the_median():
    assert [Reference(100.0, 90.0).regret(value) for value in (101, 100, 95, 90, 80)] == [0, 0, 0.5, 1, 2]


def test_reference_of_a_training():
    reference = find_reference(Rising())

    ceiling = 100 * (1 - 0.5**10)
    assert ceiling - 1e-3 < reference.best <= ceiling
    assert reference.median < reference.best


def test_figures_of_a_method():
    slow = {TASK: [trace((10, 90.0), (100, 95.0))], OTHER: [trace((10, 0.0), (100, 0.5))]}
    fast = {TASK: [trace((1, 90.0), (10, 95.0))], OTHER: [trace((1, 0.0), (50, 1.0))]}

    qualities = assess({"slow": slow, "fast": fast}, REFERENCES, [10, 50, 100], baseline="slow")

    assert qualities["slow"].regret == [1.0, 1.0, 0.5]
    assert qualities["fast"].regret == [0.75, 0.25, 0.25]
    assert qualities["fast"].error == pytest.approx([0.25, 0.25, 0.25])
    assert qualities["slow"].rank == [1.75, 2.0, 1.75]
    assert qualities["slow"].speed_up == 1
    assert qualities["fast"].speed_up == (10 + 2) / 2


def test_a_method_that_never_gets_there():
    good = {TASK: [trace((10, 99.0))]}
    late = {TASK: [trace((40, 95.0))]}

    qualities = assess({"good": good, "late": late}, REFERENCES, [20, 50], baseline="good")

    assert qualities["late"].speed_up is None
    assert qualities["late"].regret == [NOTHING_FOUND, 0.5]


def test_sections_are_replaced_and_the_page_around_them_is_kept(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# Mine\n")

    write_section(page, "a", markdown_table(["x", "y"], [["1", "2"]]))
    write_section(page, "b", "second")
    write_section(page, "a", "anew")

    text = page.read_text()
    assert text.startswith("# Mine\n")
    assert text.count("<!-- a: begin -->") == text.count("<!-- b: end -->") == 1
    assert "anew" in text
    assert "| 1 | 2 |" not in text
