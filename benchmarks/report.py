"""Writes tables into a Markdown page between markers, with the command that made them, date and machine."""

from __future__ import annotations

import os
import platform
import re
import shlex
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import click
from quality import Quality

DOCS = Path(__file__).parent.parent / "docs" / "benchmarks.md"


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table, its first column left-aligned, the others right-aligned.

    >>> print(markdown_table(["a", "b"], [["x", "1"]]))
    | a | b |
    |---|--:|
    | x | 1 |
    """
    lines = [head, ["---", *["--:"] * (len(head) - 1)], *rows]
    shown = ["| " + " | ".join(line) + " |" for line in lines]
    shown[1] = shown[1].replace(" ", "")
    return "\n".join(shown)


def quality_row(name: str, quality: Quality, version: str) -> list[str]:
    """Return a row of a table of qualities."""
    cells = [
        f"{regret:.3f} ± {error:.3f} ({rank:.1f})"
        for regret, error, rank in zip(quality.regret, quality.error, quality.rank, strict=True)
    ]
    speed_up = "-" if quality.speed_up is None else f"{quality.speed_up:.1f}"
    return [f"`{name}`", *cells, speed_up, version]


def command() -> str:
    """Return the command that is running, as it would be typed at the root of the checkout."""
    return shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])


def machine() -> str:
    """Return what the figures were measured on."""
    cores = f"{os.cpu_count()} cores ({platform.machine()}), shared with other work"
    return f"{cores}, Python {platform.python_version()}"


def publish(name: str, table: str, *, write: bool) -> None:
    """Print a table, and write it into the page of benchmarks where that is wanted."""
    click.echo(table)
    if write:
        write_section(DOCS, name, table)


def write_section(page: Path, name: str, body: str) -> None:
    """Replace what stands between the markers of `name`, or append it to the page."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    stamp = f"Made on {datetime.now(UTC):%Y-%m-%d} on {machine()} by\n\n```\n{command()}\n```"
    section = f"{begin}\n{body}\n\n{stamp}\n{end}"
    text = page.read_text() if page.exists() else "# Benchmarks\n"
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    text = pattern.sub(lambda _: section, text) if pattern.search(text) else f"{text}\n{section}\n"
    page.write_text(text)
