"""How many epochs a history saves on real data: four searches, then a fifth task with and without them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import pandas as pd
from options import write_option
from report import markdown_table, publish

from mlflow_hpo.metalearning.cache import FOLDER
from mlflow_hpo.tracking.summary import best_metric

_ROOT = Path(__file__).parent.parent
_EXPERIMENT = "projects"
_BEST = best_metric("val_accuracy")


@dataclass(frozen=True)
class Search:
    """A finished search: (epochs spent, best value so far), ascending."""

    steps: list[tuple[float, float]]

    @property
    def best(self) -> float:
        """The value of the winner."""
        return self.steps[-1][1]

    def epochs(self, value: float) -> float:
        """Return after how many epochs it had found something as good as `value`."""
        return next(epochs for epochs, found in self.steps if found >= value)


@click.command()
@click.option("--seeds", type=int, default=5, show_default=True)
@click.option("--trials", type=int, default=27, show_default=True)
@click.option("--max-epochs", type=int, default=27, show_default=True)
@click.option("--searcher", default="", help="As search.yaml says by default.")
@click.option("--scheduler", default="", help="As search.yaml says by default.")
@write_option
def main(seeds: int, trials: int, max_epochs: int, searcher: str, scheduler: str, write: bool) -> None:
    """Search digits, breast_cancer and two tables, then a third table, with `mlflow run` throughout."""
    flags = {"trials": trials, "max_epochs": max_epochs, "searcher": searcher, "scheduler": scheduler}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _make_tables(folder)
        before = folder / "before.db"
        for data in ("digits", "breast_cancer", folder / "wines.csv", folder / "coarse_digits.csv"):
            _search(before, data, flags)
        runs = {}
        for seed in range(seeds):
            for warm in (False, True):
                store = folder / f"{seed}-{warm}.db"  # searches of the new task must not know of each other
                shutil.copyfile(before, store)
                more = {"seed": seed, "warm_start": "auto" if warm else ""}
                runs[seed, warm] = _search(store, folder / "upper_halves.csv", flags | more)
    figures = [_compared(runs[seed, False], runs[seed, True]) for seed in range(seeds)]
    rows = [_row(str(seed), each) for seed, each in enumerate(figures)]
    rows.append(_row("mean", np.mean(figures, axis=0).tolist()))
    chosen = [each for each in (searcher, scheduler) if each]
    table = (
        f"### {', '.join(['Warm start: real trainings by `mlflow run`', *chosen])}\n\n"
        "The upper halves of the digits, alone and with `-P warm_start=auto` after searches on digits, "
        "breast_cancer, wines and coarse digits: the accuracy that both reach, the epochs that each has "
        "spent when it gets there, and what each ends with.\n\n"
        + markdown_table(["seed", "accuracy", "cold epochs", "warm epochs", "cold end", "warm end"], rows)
    )
    publish("-".join(["warm-start-projects", *chosen]), table, write=write)


def _compared(cold: Search, warm: Search) -> list[float]:
    """Return the accuracy that both reach, the epochs that each needs for it, and what each ends with."""
    same = min(cold.best, warm.best)
    return [same, cold.epochs(same), warm.epochs(same), cold.best, warm.best]


def _row(name: str, figures: Sequence[float]) -> list[str]:
    cells = zip(figures, (4, 0, 0, 4, 4), strict=True)
    return [name, *(f"{figure:.{digits}f}" for figure, digits in cells)]


def _make_tables(folder: Path) -> None:
    """Write three tables made of scikit-learn's data."""
    from sklearn.datasets import load_digits, load_wine

    load_wine(as_frame=True).frame.to_csv(folder / "wines.csv", index=False)
    digits = load_digits()
    coarse = digits.images.reshape(-1, 4, 2, 4, 2).mean(axis=(2, 4))
    for name, images in (("coarse_digits", coarse), ("upper_halves", digits.images[:, :4])):
        table = pd.DataFrame(images.reshape(len(images), -1)).add_prefix("pixel")
        table.assign(target=digits.target).to_csv(folder / f"{name}.csv", index=False)


def _search(store: Path, data: str | Path, parameters: dict[str, object]) -> Search:
    """Run a search as a user does, and return what its parent run says of it."""
    import mlflow

    uri = f"sqlite:///{store}"
    client = mlflow.MlflowClient(uri)
    known = client.get_experiment_by_name(_EXPERIMENT)
    experiment_id = (
        known.experiment_id
        if known
        else client.create_experiment(_EXPERIMENT, artifact_location=(store.parent / "artifacts").as_uri())
    )
    given = {"data": data, "target": "target" if isinstance(data, Path) else "", **parameters}
    flags = [flag for name, value in given.items() if value != "" for flag in ("-P", f"{name}={value}")]
    click.echo(f"{store.stem}: {' '.join(flags)}", err=True)
    subprocess.run(
        [sys.executable, "-m", "mlflow", "run", str(_ROOT), "--env-manager", "local",
         "--experiment-name", _EXPERIMENT, *flags],
        env=os.environ | {"MLFLOW_TRACKING_URI": uri, FOLDER: ""},
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    [parent] = client.search_runs([experiment_id], "tags.`hpo.kind` = 'study'", max_results=1)
    spent, best = (
        {point.step: point.value for point in client.get_metric_history(parent.info.run_id, name)}
        for name in ("epochs_spent", _BEST)
    )
    return Search([(spent[step], best[step]) for step in sorted(best)])


if __name__ == "__main__":
    main()
