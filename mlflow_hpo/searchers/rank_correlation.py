"""Rank correlation: whether two orders of the same things agree."""

from __future__ import annotations

import numpy as np

from mlflow_hpo.searchers.encoding import Array


def rank_correlations(losses: Array, others: Array) -> Array:
    """Return Spearman's correlations of losses (n) with each column of others (n x t); 0 where all are alike.

    >>> rank_correlations(np.array([1.0, 5.0, 2.0]), np.array([[0.1, 3.0], [0.9, 1.0], [0.2, 2.0]])).round(6)
    array([ 1., -1.])
    """
    from scipy.stats import rankdata  # takes a second to import

    ranks = rankdata(losses) - (len(losses) + 1) / 2
    theirs = rankdata(others, axis=0)
    theirs -= theirs.mean(axis=0)
    spreads = np.linalg.norm(theirs, axis=0) * np.linalg.norm(ranks)
    correlations: Array = theirs.T @ ranks / np.maximum(spreads, 1e-12)
    return correlations
