"""The command `mlflow-hpo report`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from mlflow_hpo.commands.common import echo, reported
from mlflow_hpo.errors import ConfigError


@click.command()
@click.argument("run_ids", nargs=-1, required=True, metavar="RUN_ID...")
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    default="report.html",
    show_default=True,
    type=click.Path(dir_okay=False, path_type=Path, allow_dash=True),
    help="Where to write, - for standard output; a file that exists is replaced.",
)
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def report(run_ids: tuple[str, ...], output: Path, debug: bool) -> None:
    """Write the report of the study RUN_ID, or of several side by side, as one page of HTML.

    The page holds all it needs and asks no server for anything. It is made of what MLflow holds, also of a
    study that runs or was killed.
    """
    with reported(debug):
        from mlflow_hpo.reports.html import page
        from mlflow_hpo.tracking.details import read_details

        to_screen = str(output) == "-"
        if not to_screen and not output.absolute().parent.is_dir():
            raise ConfigError("output", f"there is no folder {output.absolute().parent}")
        content = page([read_details(run_id) for run_id in dict.fromkeys(run_ids)])
        if to_screen:
            sys.stdout.buffer.write(content.encode())
            return
        output.write_text(content, encoding="utf-8", newline="")
        echo(f"{output}: {len(content.encode()) / 1e6:.1f} MB, open it in a browser")
