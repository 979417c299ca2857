"""The CPU cores that a process may use, by the kernel's files as containers and hosts have them."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlflow_hpo.launchers.host_cores import usable_cores


@pytest.fixture(autouse=True)
def _machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(64)))


def _cores(tmp_path: Path, membership: str, files: dict[str, str]) -> int:
    for name, text in files.items():
        file = tmp_path / "mount" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n")
    (tmp_path / "membership").write_text(membership)
    return usable_cores(tmp_path / "membership", tmp_path / "mount")


@pytest.mark.parametrize(
    ("quota", "cores"),
    [
        ("200000 100000", 2),
        ("150000 100000", 2),
        ("10000 100000", 1),
        ("12800000 100000", 64),
        ("max 100000", 64),
        ("", 64),
        ("200000 0", 64),
    ],
)
def test_a_container_has_as_many_cores_as_its_quota(tmp_path: Path, quota: str, cores: int) -> None:
    assert _cores(tmp_path, "0::/\n", {"cpu.max": quota}) == cores


def test_the_tightest_group_on_the_way_up_counts(tmp_path: Path) -> None:
    files = {"cpu.max": "6400000 100000", "job/cpu.max": "300000 100000", "job/step/cpu.max": "max 100000"}
    assert _cores(tmp_path, "0::/job/step\n", files) == 3


@pytest.mark.parametrize(("quota", "cores"), [("350000", 4), ("-1", 64)])
def test_the_first_version_of_control_groups(tmp_path: Path, quota: str, cores: int) -> None:
    files = {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}
    files |= {"cpu/job/cpu.cfs_quota_us": quota, "cpu/job/cpu.cfs_period_us": "100000"}
    assert _cores(tmp_path, "5:cpu,cpuacct:/job\n4:memory:/job\n0::/\n", files) == cores


def test_cores_that_are_taken_away_are_not_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {3})
    assert _cores(tmp_path, "0::/\n", {"cpu.max": "200000 100000"}) == 1


def test_without_the_kernels_file_it_is_what_the_machine_has(tmp_path: Path) -> None:
    assert usable_cores(tmp_path / "none", tmp_path) == 64
