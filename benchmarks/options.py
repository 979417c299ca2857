"""Options that several benchmarks have."""

from __future__ import annotations

from pathlib import Path

import click
from report import DOCS

path_option = click.option(
    "--path",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=Path("../shared/lcbench"),
    show_default=True,
    help="Folder of the surrogate.",
)
split_option = click.option(
    "--split", type=click.Choice(["dev", "holdout"]), default="dev", show_default=True
)
write_option = click.option(
    "--write", is_flag=True, help=f"Write the table into {DOCS.parent.name}/{DOCS.name}."
)
