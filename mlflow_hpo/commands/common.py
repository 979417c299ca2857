"""What all commands share: exit codes, errors of one line, and output that every terminal takes."""

from __future__ import annotations

import logging
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from mlflow_hpo.errors import ConfigError, HpoError
from mlflow_hpo.patience import quiet_retries
from mlflow_hpo.reports.words import as_json, plain

USAGE, RUNTIME, INTERRUPTED = 2, 1, 130  # exit codes


@contextmanager
def reported(debug: bool) -> Iterator[None]:
    """Turn errors into one line on stderr and the exit code that belongs to them."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")  # its notes would tear the live view
    quiet_retries()
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
        if debug or (isinstance(error, BrokenPipeError) and _unread()):
            raise
        line = " ".join(str(error).split())
        echo(f"error: {type(error).__name__}: {line:.500} (--debug shows where)", err=True)
        sys.exit(RUNTIME)


def _unread() -> bool:
    """Whether nobody reads what is printed any more, as after ``| head``; click ends quietly then."""
    output = select.poll()
    try:
        output.register(sys.stdout.fileno(), 0)  # errors are told in any case
        return any(event & select.POLLERR for _, event in output.poll(0))
    except (OSError, ValueError):  # it is no file
        return False


def echo(line: str, *, err: bool = False) -> None:
    """Print one line; nothing in it steers the terminal, or fails for its encoding."""
    encoding = getattr(sys.stderr if err else sys.stdout, "encoding", None) or "utf-8"
    click.echo(plain(line).encode(encoding, "backslashreplace").decode(encoding), err=err)


def echo_json(data: Any) -> None:
    """Print plain data as JSON in ASCII; numbers that JSON does not know become null."""
    click.echo(as_json(data))
