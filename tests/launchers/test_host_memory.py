"""The memory that a process may still take, by the kernel's files as containers and hosts have them."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from mlflow_hpo.launchers.host_memory import free_memory

MB = 1 << 20


def _group(folder: Path, limit: str, usage: int, inactive: int, version: int = 2) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    names = (
        ("memory.max", "memory.current")
        if version == 2
        else ("memory.limit_in_bytes", "memory.usage_in_bytes")
    )
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{usage}\n")
    prefix = "" if version == 2 else "total_"
    (folder / "memory.stat").write_text(f"anon 17\n{prefix}inactive_file {inactive}\n{prefix}active_file 3\n")


def _free(tmp_path: Path, membership: str) -> int:
    (tmp_path / "membership").write_text(membership)
    return free_memory(tmp_path / "membership", tmp_path / "mount")


def test_the_group_of_a_container_bounds_it(tmp_path: Path) -> None:
    _group(tmp_path / "mount", str(64 * MB), 40 * MB, 8 * MB)
    assert _free(tmp_path, "0::/\n") == 32 * MB


def test_a_path_of_the_host_that_the_container_cannot_see(tmp_path: Path) -> None:
    _group(tmp_path / "mount", str(64 * MB), 40 * MB, 8 * MB)
    assert _free(tmp_path, "0::/system.slice/docker-17.scope\n") == 32 * MB


def test_the_tightest_group_on_the_way_up_counts(tmp_path: Path) -> None:
    _group(tmp_path / "mount" / "job" / "step", "max", 1 * MB, 0)
    _group(tmp_path / "mount" / "job", str(16 * MB), 12 * MB, 0)
    _group(tmp_path / "mount", str(64 * MB), 20 * MB, 0)
    assert _free(tmp_path, "0::/job/step\n") == 4 * MB


def test_the_first_version_of_control_groups(tmp_path: Path) -> None:
    _group(tmp_path / "mount" / "memory" / "job", str(64 * MB), 40 * MB, 8 * MB, version=1)
    _group(tmp_path / "mount" / "memory", str((1 << 63) - 4096), 40 * MB, 8 * MB, version=1)
    assert _free(tmp_path, "9:name=systemd:/\n5:cpu,cpuacct:/job\n4:memory:/job\n0::/\n") == 32 * MB


def test_a_group_that_is_over_its_limit_has_nothing_left(tmp_path: Path) -> None:
    _group(tmp_path / "mount", str(64 * MB), 65 * MB, 0)
    assert _free(tmp_path, "0::/\n") == 0


@pytest.mark.parametrize("membership", ["", "0::/\n", "4:memory:/\n"])
def test_without_limits_it_is_what_the_machine_has(tmp_path: Path, membership: str) -> None:
    assert _free(tmp_path, membership) == pytest.approx(psutil.virtual_memory().available, rel=0.2)


def test_without_the_kernels_file_it_is_what_the_machine_has(tmp_path: Path) -> None:
    free = free_memory(tmp_path / "none", tmp_path)
    assert free == pytest.approx(psutil.virtual_memory().available, rel=0.2)
