"""Is what is installed fit for each other: Python, packages, the plugin, and what others bring."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Iterator
from importlib.metadata import EntryPoint, PackageNotFoundError, entry_points
from typing import Any

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from mlflow_hpo.doctor.findings import Finding, fault, ok, warning
from mlflow_hpo.registry import Registry

PACKAGE = "mlflow-hpo"
SHOWN = ("mlflow", "torch", "hyperopt", "numpy", "boto3", "click")  # whose versions one is asked for
BACKENDS = "mlflow.project_backend"
BACKEND = "hpo"


def check_python() -> Iterator[Finding]:
    """Check that this Python is one that the package is made for."""
    version = platform.python_version()
    about = _metadata()
    wanted = SpecifierSet("" if about is None else about["Requires-Python"] or "")
    if wanted.contains(version, prereleases=True):
        yield ok("python", f"{platform.python_implementation()} {version}")
    else:
        yield fault("python", f"{version} is not {wanted}", f"make an environment with Python {wanted}")


def check_packages() -> Iterator[Finding]:
    """Check the versions of all that this package needs, and of the extras as far as they are installed."""
    if _metadata() is None:
        yield warning(
            "packages",
            f"{PACKAGE} itself is not installed",
            f"pip install {PACKAGE}, or in a clone: pip install .",
        )
        return
    good: dict[str, str] = {}
    seen: set[str] = set()
    for line in importlib.metadata.requires(PACKAGE) or []:
        wanted = Requirement(line)
        extra = wanted.marker is not None and not wanted.marker.evaluate({"extra": ""})
        plain = f"{wanted.name}{wanted.specifier}"
        if plain in seen:
            continue
        seen.add(plain)
        cure = f"pip install '{plain}'"
        try:
            version = importlib.metadata.version(wanted.name)
        except PackageNotFoundError:
            if not extra:
                yield fault("packages", f"{wanted.name} is not installed", cure)
            continue
        if wanted.specifier.contains(version, prereleases=True):
            good[wanted.name] = version
        elif extra:
            yield warning("packages", f"{wanted.name} {version} is not {wanted.specifier}", cure)
        else:
            yield fault("packages", f"{wanted.name} {version} is not {wanted.specifier}", cure)
    shown = ", ".join(f"{name} {good[name]}" for name in SHOWN if name in good)
    if shown:
        yield ok("packages", shown)


def check_backend() -> Iterator[Finding]:
    """Check that `mlflow run --backend hpo` finds this package."""
    from mlflow_hpo.plugin import HpoBackend

    points = list(entry_points(group=BACKENDS, name=BACKEND))
    again = f"pip install --force-reinstall --no-deps {PACKAGE} in this environment"
    if not points:
        yield fault("plugin", f"MLflow does not find the project backend {BACKEND!r}", again)
        return
    first = points[0]  # MLflow takes this one
    try:
        found = first.load()
    except Exception as error:  # noqa: BLE001  code of a package that may be broken in any way
        yield fault("plugin", f"the project backend {BACKEND!r} cannot be loaded: {_line(error)}", again)
        return
    if found is not HpoBackend:
        yield fault(
            "plugin",
            f"the project backend {BACKEND!r} is {first.value} of {_owner(first)}",
            f"pip uninstall {_owner(first)}, or {again}",
        )
    else:
        yield ok("plugin", f"MLflow finds the project backend {BACKEND!r}")


def check_others() -> Iterator[Finding]:
    """Check that the searchers, schedulers and launchers of other packages can be loaded."""
    from mlflow_hpo.launchers import LAUNCHERS
    from mlflow_hpo.schedulers import SCHEDULERS
    from mlflow_hpo.searchers import SEARCHERS

    rooms: dict[str, Registry[Any]] = {
        "searchers": SEARCHERS,
        "schedulers": SCHEDULERS,
        "launchers": LAUNCHERS,
    }
    for room, registry in rooms.items():
        for point in entry_points(group=f"mlflow_hpo.{room}"):
            yield _of_other(room.removesuffix("s"), registry, point)


def _of_other(kind: str, registry: Registry[Any], point: EntryPoint) -> Finding:
    owner = _owner(point)
    named = f"{kind} {point.name!r} of {owner}"
    cure = f"pip install --upgrade {owner}, or pip uninstall {owner}"
    try:
        mine = point.load()
        taken = registry.get(point.name)
    except (Exception, SystemExit) as error:  # noqa: BLE001  likewise
        return fault("entry points", f"{named} ({point.value}) cannot be used: {_line(error)}", cure)
    if taken is not mine:
        return warning(
            "entry points",
            f"{named} is never used: {taken.__module__}.{taken.__qualname__} has the same name",
            f"ask for another name in {owner}, or pip uninstall {owner}",
        )
    return ok("entry points", named)


def _metadata() -> importlib.metadata.PackageMetadata | None:
    try:
        return importlib.metadata.metadata(PACKAGE)
    except PackageNotFoundError:
        return None


def _owner(point: EntryPoint) -> str:
    return "an unknown package" if point.dist is None else str(point.dist.metadata["Name"])


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split()):.200}"
