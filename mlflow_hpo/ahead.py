"""Imports that take seconds, made while a study has its workers do other things."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable


def import_ahead(imports: Callable[[], None]) -> None:
    """Run `imports` in a thread; should it fail, whoever needs them will tell."""

    def run() -> None:
        with contextlib.suppress(Exception):
            imports()

    threading.Thread(target=run, name="mlflow-hpo-imports", daemon=True).start()
