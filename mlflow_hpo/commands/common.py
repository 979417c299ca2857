"""What all commands share: exit codes, errors of one line, and output that every terminal takes."""

from __future__ import annotations

import json
import logging
import math
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import click

from mlflow_hpo.errors import ConfigError, HpoError
from mlflow_hpo.reports.words import plain

USAGE, RUNTIME, INTERRUPTED = 2, 1, 130  # exit codes


@contextmanager
def reported(debug: bool) -> Iterator[None]:
    """Turn errors into one line on stderr and the exit code that belongs to them."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")  # its notes would tear the live view
    try:
        yield
    except KeyboardInterrupt:
        click.echo("interrupted", err=True)
        sys.exit(INTERRUPTED)
    except HpoError as error:
        if debug:
            raise
        echo(f"error: {error}", err=True)
        sys.exit(USAGE if isinstance(error, ConfigError) else RUNTIME)
    except Exception as error:
        if debug:
            raise
        line = " ".join(str(error).split())
        echo(f"error: {type(error).__name__}: {line:.500} (--debug shows where)", err=True)
        sys.exit(RUNTIME)


def echo(line: str, *, err: bool = False) -> None:
    """Print one line; nothing in it steers the terminal, or fails for its encoding."""
    encoding = getattr(sys.stderr if err else sys.stdout, "encoding", None) or "utf-8"
    click.echo(plain(line).encode(encoding, "backslashreplace").decode(encoding), err=err)


def echo_json(data: Any) -> None:
    """Print plain data as JSON in ASCII; numbers that JSON does not know become null."""
    click.echo(as_json(data))


def as_json(data: Any) -> str:
    """Return plain data as JSON in ASCII.

    >>> as_json({"value": float("nan"), "name": "é"})
    '{\\n  "value": null,\\n  "name": "\\\\u00e9"\\n}'
    """
    return json.dumps(_finite(data), indent=2, allow_nan=False, default=str)


def _finite(data: Any) -> Any:
    if isinstance(data, float) and not math.isfinite(data):
        return None
    if isinstance(data, Mapping):
        return {str(key): _finite(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_finite(value) for value in data]
    return data
