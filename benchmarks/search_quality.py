"""How fast searches find good configurations: ours against the peers, on LCBench's learning curves."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click
from lcbench import MAX_EPOCHS, LcBench
from methods import METHODS
from options import path_option, split_option, write_option
from quality import assess
from report import markdown_table, publish, quality_row
from traces import CACHE, Traces

from mlflow_hpo.metalearning.history import counted

_OURS = ["auto+auto", "tpe+hyperband", "random+asha"]


def _comma_separated(context: click.Context, parameter: click.Parameter, value: str) -> list[str]:
    return value.split(",")


@click.command()
@path_option
@split_option
@click.option(
    "--methods",
    callback=_comma_separated,
    default=",".join([*_OURS, *METHODS]),
    show_default=True,
    help="Names of the peers, searcher+scheduler of ours; random must be among them.",
)
@click.option("--tasks", type=int, help="The first so many tasks of the split; all by default.")
@click.option("--seeds", type=int, default=5, show_default=True)
@click.option("--workers", callback=_comma_separated, default="1", show_default=True, help="Such as 1,4,64.")
@click.option(
    "--budgets",
    callback=_comma_separated,
    default="1,2,5,10,20,50",
    show_default=True,
    help="Full trainings.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=CACHE,
    help="Folder of our own traces, which are taken from there if they are there; the peers' are in git.",
)
@write_option
def main(
    path: Path,
    split: str,
    methods: list[str],
    tasks: int | None,
    seeds: int,
    workers: list[str],
    budgets: list[str],
    out: Path,
    write: bool,
) -> None:
    """Print normalised regret, average rank and speed-up of each method, and keep the traces."""
    if "random" not in methods:
        raise click.BadParameter("random must be among them", param_hint="--methods")
    bench = LcBench(path)
    traces = Traces(bench, out)
    chosen = bench.tasks(split)[:tasks]
    epochs = [int(budget) * MAX_EPOCHS for budget in budgets]
    for number in map(int, workers):
        names = [name for name in methods if traces.version(name, number) is not None]
        for missing in sorted(set(methods) - set(names)):
            click.echo(f"{missing} is left out: not installed", err=True)
        runs = {name: {} for name in names}
        for task in chosen:
            click.echo(f"{number} workers, {task.name}", err=True)
            for name in names:
                runs[name][task] = [
                    traces.trace(name, task, seed, number, epochs[-1]) for seed in range(seeds)
                ]
        references = {task: traces.reference(task) for task in chosen}
        qualities = assess(runs, references, epochs, baseline="random")
        versions = {name: traces.version(name, number) for name in names}
        (out / f"quality-{split}-{number}.json").write_text(
            json.dumps(
                {name: {"version": versions[name], **asdict(each)} for name, each in qualities.items()}
            )
        )
        about = (
            f"### {counted(number, 'worker')}: {counted(len(chosen), f'{split} task')} x "
            f"{counted(seeds, 'seed')}\n\nMean normalised regret ± standard error over tasks "
            f"after so many full trainings of {MAX_EPOCHS} epochs, (average rank), and speed-up.\n\n"
        )
        table = about + markdown_table(
            ["method", *budgets, "speed-up", "version"],
            [quality_row(name, qualities[name], versions[name] or "") for name in names],
        )
        publish(f"search-quality-{split}-{number}-{len(chosen)}x{seeds}", table, write=write)


if __name__ == "__main__":
    main()
