"""The command `mlflow-hpo import`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from mlflow_hpo.commands.common import RUNTIME, echo_json, reported


@click.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="All of it as JSON.")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def import_command(file: Path, as_json: bool, debug: bool) -> None:
    """Print the search.yaml that does what the FILE of another tool does.

    FILE is the YAML or JSON of a W&B sweep, or a mapping of parameters to Optuna's distributions, as Optuna
    writes them as JSON, or to calls of Ray Tune such as tune.loguniform(1e-4, 1e-1). Nothing in it is run.
    What has no counterpart is told in comments; nothing is guessed. Exit code 1 where a parameter is left
    out.
    """
    with reported(debug):
        from mlflow_hpo.config import load_config
        from mlflow_hpo.importing.distributions import from_distributions
        from mlflow_hpo.importing.sweeps import from_sweep, is_sweep

        settings = load_config(file)
        found = from_sweep(settings) if is_sweep(settings) else from_distributions(settings)
        found.check()
        if as_json:
            echo_json({"search": found.keys, "left_out": found.left_out, "notes": found.notes})
        else:
            click.echo(found.to_yaml(), nl=False)
    if found.left_out:
        sys.exit(RUNTIME)
