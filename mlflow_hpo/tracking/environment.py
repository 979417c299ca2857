"""Environment: what a study ran in, as texts for its parent run, so that it can be made again."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import subprocess
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import psutil
import pynvml

from mlflow_hpo.tracking.connect import without_passwords

_MOST = 1_000_000  # characters of a diff that are worth keeping
_PATIENCE = 10.0  # seconds that git gets


def environment(source: Path | None, threads: int | None = None) -> dict[str, str]:
    """Return what a study runs in: path of an artifact -> its content.

    ``packages.txt`` names every installed distribution, ``machine.json`` the machine, and ``changes.diff``,
    where the training code lies in a git repository and was changed since its commit, how.

    Args:
        source: a file or folder of the training code, if it is on this machine.
        threads: of the CPU that a trial gets, on which depends how its sums are rounded; None if nothing
            sets it.
    """
    facts = machine() | ({} if threads is None else {"threads_per_trial": threads})
    found = {"packages.txt": packages(), "machine.json": json.dumps(facts, indent=2)}
    if source is not None and (diff := changes(source)):
        found["changes.diff"] = diff
    return {f"environment/{name}": text for name, text in found.items()}


def packages() -> str:
    """Return name==version of every installed distribution, a line each."""
    found = {f"{d.metadata['Name']}=={d.version}" for d in distributions() if d.metadata["Name"]}
    return "\n".join(sorted(found, key=str.lower)) + "\n"


def machine() -> dict[str, Any]:
    """Return facts about this machine: Python, platform, cores, memory, GPUs and their driver."""
    facts: dict[str, Any] = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": psutil.virtual_memory().total,
        "gpus": [],
    }
    with contextlib.suppress(pynvml.NVMLError):  # no NVIDIA driver on this machine
        pynvml.nvmlInit()
        try:
            facts["gpu_driver"] = pynvml.nvmlSystemGetDriverVersion()
            handles = map(pynvml.nvmlDeviceGetHandleByIndex, range(pynvml.nvmlDeviceGetCount()))
            facts["gpus"] = [
                {"name": pynvml.nvmlDeviceGetName(each), "uuid": pynvml.nvmlDeviceGetUUID(each)}
                for each in handles
            ]
        finally:
            pynvml.nvmlShutdown()
    return facts


def changes(path: Path) -> str:
    """Return how what git tracks differs from the commit, in the repository that `path` is in; "" if not.

    New files that were never added are none of it. Passwords in URLs are left out.
    """
    folder = path if path.is_dir() else path.parent
    command = [
        "git",
        "-C",
        str(folder),
        "-c",
        "core.fsmonitor=false",
        "diff",
        "--no-color",
        "--no-ext-diff",
        "--no-textconv",
        "HEAD",
    ]
    try:
        found = subprocess.run(
            command,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_PATIENCE,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):  # no git, no repository, no commit
        return ""
    diff = without_passwords(found.stdout.decode("utf-8", "replace"))
    left = len(diff) - _MOST
    return diff if left <= 0 else f"{diff[:_MOST]}\n... {left} more characters\n"
