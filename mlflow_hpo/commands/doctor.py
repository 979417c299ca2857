"""The command `mlflow-hpo doctor`."""

from __future__ import annotations

import sys

import click

from mlflow_hpo.commands.common import RUNTIME, echo, echo_json, reported


@click.command()
@click.option("--experiment", default="", metavar="NAME", help="Where studies are to go.")
@click.option("--read-only", is_flag=True, help="Write nothing, not even a run that is deleted again.")
@click.option("--json", "as_json", is_flag=True, help="All of it as JSON.")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def doctor(experiment: str, read_only: bool, as_json: bool, debug: bool) -> None:
    """Check everything that a study needs here, and say what to do about each fault.

    Looks at Python and packages, plugins, GPUs, settings, the tracking and artifact stores, folders, disks
    and clocks. To see that the stores can be written, a run and an artifact are made and deleted again.
    Exit code 1 where there is a FAULT.
    """
    with reported(debug):
        from mlflow_hpo.doctor import Level, examine

        found = examine(experiment or None, writing=not read_only)
        healthy = all(each.level is not Level.FAULT for each in found)
        if as_json:
            plain = [
                {"level": each.level.value, "subject": each.subject, "text": each.text, "cure": each.cure}
                for each in found
            ]
            echo_json({"healthy": healthy, "findings": plain})
        else:
            for each in found:
                cure = f" | DO: {each.cure}" if each.cure else ""
                echo(f"{each.level.value:<8} {each.subject:<15} {each.text}{cure}")
    if not healthy:
        sys.exit(RUNTIME)
