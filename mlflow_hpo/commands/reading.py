"""The commands that read studies back from MLflow: `show`, `list`, `best`, `compare`, `export`."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import click

from mlflow_hpo.commands.common import echo, echo_json, reported
from mlflow_hpo.errors import ConfigError


def _read(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of every command that reads."""
    command = click.option("--debug", is_flag=True, help="Show tracebacks.")(command)
    return click.option("--json", "as_json", is_flag=True, help="All of it as JSON.")(command)


@click.command()
@click.argument("run_id")
@_read
def show(run_id: str, as_json: bool, debug: bool) -> None:
    """Print the state of the study with the parent run RUN_ID, from MLflow alone."""
    with reported(debug):
        from mlflow_hpo.reports.text import ending
        from mlflow_hpo.tracking.connect import public_uri
        from mlflow_hpo.tracking.reader import read_study

        study = read_study(run_id)
        if as_json:
            echo_json(dataclasses.asdict(study) | {"tracking_uri": public_uri(study.tracking_uri)})
            return
        for line in ending(study):
            echo(line)


@click.command("list")
@click.option("--experiment", default="", metavar="NAME", help="Only studies of this one.")
@_read
def list_command(experiment: str, as_json: bool, debug: bool) -> None:
    """Print the studies that the tracking store holds, the latest first."""
    with reported(debug):
        from mlflow_hpo.reports.tables import studies_table
        from mlflow_hpo.tracking.listing import list_studies

        studies = list_studies(experiment or None)
        if as_json:
            echo_json([dataclasses.asdict(each) | _times(each.started, each.ended) for each in studies])
            return
        for line in studies_table(studies) if studies else ["no study yet"]:
            echo(line)


@click.command()
@click.argument("run_id")
@_read
def best(run_id: str, as_json: bool, debug: bool) -> None:
    """Print the best trial of the study RUN_ID: its configuration, value, run and model."""
    with reported(debug):
        from mlflow_hpo.reports.tables import best_data, best_lines
        from mlflow_hpo.tracking.reader import read_study

        study = read_study(run_id)
        if as_json:
            echo_json(best_data(study))
            return
        for line in best_lines(study):
            echo(line)


@click.command()
@click.argument("run_ids", nargs=-1, required=True, metavar="RUN_ID...")
@_read
def compare(run_ids: tuple[str, ...], as_json: bool, debug: bool) -> None:
    """Print several studies side by side, the best first where all optimise one metric."""
    with reported(debug):
        from mlflow_hpo.reports.comparison import comparison_data, comparison_table
        from mlflow_hpo.tracking.reader import read_study

        studies = [read_study(run_id) for run_id in dict.fromkeys(run_ids)]
        if as_json:
            echo_json(comparison_data(studies))
            return
        for line in comparison_table(studies):
            echo(line)


@click.command()
@click.argument("run_id")
@click.option(
    "--format",
    "form",
    required=True,
    type=click.Choice(["csv", "json", "parquet"]),
    help="Of the file; JSON and Parquet hold every text exactly, CSV shows control characters as escapes.",
)
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path, allow_dash=True),
    help="Where to write, instead of standard output; a file that exists is replaced.",
)
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def export(run_id: str, form: str, output: Path | None, debug: bool) -> None:
    """Write all trials of the study RUN_ID: parameters, value, status, epochs, reason and more."""
    with reported(debug):
        from mlflow_hpo.reports.export import export as exported
        from mlflow_hpo.tracking.reader import read_study

        to_screen = output is None or str(output) == "-"
        if to_screen and form == "parquet" and sys.stdout.isatty():
            raise ConfigError("output", "a Parquet file is nothing for a terminal; give -o FILE")
        if not to_screen and output is not None and not output.absolute().parent.is_dir():
            raise ConfigError("output", f"there is no folder {output.absolute().parent}")
        content = exported(read_study(run_id), form)
        if to_screen:
            sys.stdout.buffer.write(content)
        elif output is not None:
            output.write_bytes(content)


def _times(started: float, ended: float | None) -> dict[str, str | None]:
    return {
        "started": datetime.fromtimestamp(started, UTC).isoformat(),
        "ended": None if ended is None else datetime.fromtimestamp(ended, UTC).isoformat(),
    }
