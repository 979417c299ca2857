"""Losses of any scale as numbers that a Gaussian process can take."""

from __future__ import annotations

import numpy as np
from scipy.special import ndtri

from mlflow_hpo.searchers.encoding import Array

_FAR = 6.0  # a loss that is better than the median by more is drawn towards it


def scaled(losses: Array) -> Array:
    """Return losses (n), of which some may be infinite, on a scale that a Gaussian process can take.

    Their order stays. Above the median of the finite ones they become the normal quantiles of their ranks.
    Below it they keep their proportions: the best eighth begins where it would by its quantile.
    """
    from scipy.stats import rankdata  # takes a second to import

    quantiles: Array = ndtri((rankdata(losses) - 0.5) / len(losses))
    finite = losses[np.isfinite(losses)]
    if len(finite) < 4:
        return quantiles
    eighth, median = np.quantile(finite, [0.125, 0.5])
    with np.errstate(all="ignore"):  # of losses that are the same, or at the ends of floats
        below = (median - losses) / (median - eighth)
    if not np.isfinite(below[losses < median]).all() or not median > eighth:
        return quantiles
    at_eighth, at_median = np.interp([eighth, median], np.sort(losses), np.sort(quantiles))
    below *= at_median - at_eighth
    below = np.where(below > _FAR, _FAR + np.log1p(np.maximum(below - _FAR, 0.0)), below)
    return np.where(losses < median, at_median - below, quantiles)
