"""What was fetched goes again, and nothing else does."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from mlflow_hpo.errors import ConfigError
from mlflow_hpo.projects.fetching import fetched


@pytest.mark.parametrize("subfolder", ["", "#inner/counting", "#inner//counting/"])
def test_a_zip_file(
    foreign: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, subfolder: str
) -> None:
    inside = tmp_path / "inside"
    shutil.copytree(foreign("counting"), inside / "inner" / "counting" if subfolder else inside)
    packed = shutil.make_archive(str(tmp_path / "packed"), "zip", inside)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    with fetched(f"{packed}{subfolder}", None, "main") as project:
        assert (project.folder / "train.py").exists()
        assert project.uri == f"{packed}{subfolder}"
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("folder", ["{}", "{}/../counting", "file://{}"])
def test_a_folder_stays(foreign: Callable[[str], Path], folder: str) -> None:
    path = foreign("counting")
    with fetched(folder.format(path), None, "main") as project:
        assert project.folder.resolve() == path
    assert (path / "train.py").exists()


def test_what_is_no_part_of_the_copy_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = shutil.make_archive(
        str(tmp_path / "packed"), "zip", shutil.copytree(Path(__file__).parent, tmp_path / "x")
    )
    other = tmp_path / "other"
    other.mkdir()
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    with pytest.raises(ConfigError, match="entry point: "), fetched(f"{packed}#{other}", None, "main"):
        pass
    assert other.exists()
