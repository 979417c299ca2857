"""The folders that this package uses on the machine, and what killed drivers have left there."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from mlflow_hpo.doctor.findings import Finding, fault, ok, warning
from mlflow_hpo.metalearning.cache import FOLDER as CACHE
from mlflow_hpo.metalearning.cache import cache_folder
from mlflow_hpo.tracking.spool import FOLDER as SPOOL
from mlflow_hpo.tracking.spool import LeftSpool, left_files, spool_folder

SCARCE, TOO_LITTLE = 2 << 30, 100 << 20  # bytes


def check_folders() -> Iterator[Finding]:
    """Check that the folders for spools, cache and scratch files can be written and are not full."""
    try:
        scratch = Path(tempfile.gettempdir())
    except FileNotFoundError as error:
        yield fault("folders", f"no folder for scratch files: {error}", "set TMPDIR to a folder with space")
        return
    uses = [
        (scratch, "scratch folder", "TMPDIR", fault),
        (spool_folder(), "spool folder", SPOOL, fault),
        (cache_folder(), "cache folder", CACHE, warning),  # a study does without
    ]
    devices = set()
    for folder, subject, setting, level in uses:
        if folder is None:
            continue
        problem = why_not_writable(folder)
        if problem:
            yield level(
                subject,
                f"{folder}: {problem}",
                f"make it writable for this user, or set {setting} to another",
            )
            continue
        existing = nearest(folder)
        free = shutil.disk_usage(existing).free
        text = f"{folder}, {free / (1 << 30):.1f} GiB free"
        if free >= SCARCE:
            yield ok(subject, text)
        elif (device := os.stat(existing).st_dev) not in devices:  # a full disk is one finding
            devices.add(device)
            level = fault if free < TOO_LITTLE else warning
            yield level(subject, text, f"free some space there, or set {setting} to a folder with more")


def check_spools() -> Iterator[Finding]:
    """Check that no driver that is gone has left values which the tracking store never got."""
    stores: Counter[str] = Counter()
    in_use = 0
    for path in left_files(spool_folder()):
        try:
            with LeftSpool(path) as spool:
                stores[spool.store] += 1
        except BlockingIOError:
            in_use += 1
        except FileNotFoundError:  # its study is done with it
            continue
        except (OSError, ValueError) as error:
            yield warning("spools", f"{path} cannot be read: {error}", "look at the file, and remove it")
    for store, count in stores.items():
        yield warning(
            "spools",
            f"{count} left by drivers that are gone, with values that {store} does not have",
            f"mlflow-hpo sync (with MLFLOW_TRACKING_URI={store})",
        )
    if not stores:
        yield ok("spools", f"none left behind, {in_use} of studies at work")


def why_not_writable(folder: Path) -> str:
    """Return why files cannot be made in a folder, or in the one that it would be made in; "" if they can."""
    existing = nearest(folder)
    if not existing.is_dir():
        return f"{existing} is not a folder"
    if existing != folder:
        return "" if os.access(existing, os.W_OK | os.X_OK) else f"{existing} is not writable"
    try:
        with tempfile.TemporaryFile(dir=folder):
            return ""
    except OSError as error:
        return error.strerror or str(error)


def nearest(path: Path) -> Path:
    """Return `path`, or the nearest of the folders above it that exists."""
    path = path.absolute()
    for each in (path, *path.parents):
        with contextlib.suppress(OSError):
            if each.exists():
                return each
    return path
