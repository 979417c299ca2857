"""Scratch folders go with their process, or with the next one."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from mlflow_hpo.scratch import remove_left_behind, scratch_folder

HOLDER = """
import sys, tempfile, time
sys.path[:] = {path!r}
tempfile.tempdir = {folder!r}
from mlflow_hpo.scratch import scratch_folder
with scratch_folder() as folder:
    (folder / "large").write_text("...")
    print(folder, flush=True)
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_it_is_removed_at_the_end(temporary: Path) -> None:
    with scratch_folder() as folder:
        assert folder.parent == temporary
        (folder / "file").touch()
        remove_left_behind()
        assert (folder / "file").exists(), "it is in use"
    assert not folder.exists()


def test_that_of_a_killed_process_is_removed_by_the_next(temporary: Path) -> None:
    code = HOLDER.format(path=sys.path, folder=str(temporary))
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        left = Path(holder.stdout.readline().strip())
        remove_left_behind()
        assert (left / "large").exists(), "its process lives"
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    assert left.exists()
    with scratch_folder():
        assert not left.exists()


def test_what_is_not_ours_stays(temporary: Path) -> None:
    unmarked, elsewhere = temporary / "mlflow-hpo-unmarked", temporary / "elsewhere"
    for folder in (unmarked, elsewhere):
        folder.mkdir()
    (elsewhere / ".in-use").touch()
    (temporary / "mlflow-hpo-link").symlink_to(elsewhere)
    remove_left_behind()
    assert unmarked.exists()
    assert (elsewhere / ".in-use").exists()
