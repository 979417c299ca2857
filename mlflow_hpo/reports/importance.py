"""How much each parameter matters, by an evaluator of Optuna's; the extra `[optuna]`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from mlflow_hpo.reports.optuna_study import as_optuna, quiet
from mlflow_hpo.tracking.curves import NO_CURVE
from mlflow_hpo.tracking.details import StudyDetails

if TYPE_CHECKING:
    import optuna

ENOUGH = 20  # trials with a value: with fewer it would be noise


@dataclass(frozen=True, slots=True)
class Importance:
    """Shares of the parameters, which sum up to 1, the largest first; or why there are none."""

    shares: Mapping[str, float]
    missing: str = ""

    def plain(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {"shares": list(self.shares.items()), "missing": self.missing}


def importance(study: StudyDetails) -> Importance:
    """Return how much each parameter matters for getting among the best tenth of the trials.

    Source: Watanabe et al., PED-ANOVA, IJCAI 2023, and for conditional parameters Conditional PED-ANOVA,
    KDD 2026, as Optuna has them.
    """
    valued = sum(
        each.best is not None and math.isfinite(each.best) and each.status != "FAILED"
        for each in study.summary.trials
    )
    if valued < ENOUGH:
        return Importance({}, f"It takes {ENOUGH} trials with a value; there are {valued}.")
    if (evaluate := evaluator()) is None:
        return Importance({}, "It needs Optuna: pip install 'mlflow-hpo[optuna]', and make the report again.")
    try:
        with quiet():
            trials = tuple(replace(each, curve=NO_CURVE) for each in study.trials)  # large, and not asked for
            made = as_optuna(replace(study, trials=trials))
            shares = evaluate(made)
    except (ValueError, RuntimeError) as error:  # such as that all values are equal
        return Importance({}, f"Optuna has no answer: {' '.join(str(error).split()):.200}")
    return Importance({name: round(float(share), 4) for name, share in shares.items()})


def evaluator() -> Callable[[optuna.Study], Mapping[str, float]] | None:
    """Return what evaluates a study of Optuna's; None without Optuna. It may take a second or two."""
    try:
        from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
    except ImportError:
        return None
    return partial(get_param_importances, evaluator=PedAnovaImportanceEvaluator())
