"""Which checkpoints are kept: for any study and any policy."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_hpo import ConfigError
from mlflow_hpo.retention import Retention, StoredTrial

VALUES = st.none() | st.floats(allow_nan=True, allow_infinity=True)


@st.composite
def studies(draw):
    trials = []
    for trial_id in range(draw(st.integers(0, 8))):
        epochs = draw(st.sets(st.integers(1, 27), max_size=5))
        best_epoch = draw(st.sampled_from(sorted(epochs)) if epochs else st.just(0)) or draw(
            st.integers(1, 27)
        )
        trials.append(StoredTrial(trial_id, draw(st.booleans()), draw(VALUES), best_epoch, epochs))
    return trials


POLICIES = st.sampled_from(["best", "best:1", "best:3", "last", "all"])
MODES = st.sampled_from(["max", "min"])


@given(studies(), POLICIES, MODES)
def test_every_policy(trials, policy, mode):
    retention = Retention.parse(policy)
    kept = retention.keep(trials, mode)
    by_id = {trial.trial_id: trial for trial in trials}
    sign = -1 if mode == "max" else 1
    finite = [t for t in trials if t.best is not None and math.isfinite(t.best)]
    ranked = sorted(finite, key=lambda t: (sign * t.best, t.trial_id))
    for trial_id, epochs in kept.items():
        assert epochs
        assert epochs <= set(by_id[trial_id].epochs)
    for trial in trials:
        if trial.epochs and (trial.paused or policy in ("last", "all")):
            assert max(trial.epochs) in kept[trial.trial_id]
    for trial in ranked[: retention.count if policy.startswith("best") else 1]:
        if trial.best_epoch in trial.epochs:
            assert trial.best_epoch in kept[trial.trial_id]
    if policy == "all":
        assert kept == {trial.trial_id: set(trial.epochs) for trial in trials if trial.epochs}
    else:
        assert all(len(epochs) <= 2 for epochs in kept.values())
    if policy.startswith("best"):
        winners = {trial.trial_id for trial in ranked[: retention.count]}
        assert all(trial_id in winners or by_id[trial_id].paused for trial_id in kept)


@given(studies(), MODES)
def test_more_is_kept_the_larger_k(trials, mode):
    smaller, larger = (Retention.parse(policy).keep(trials, mode) for policy in ("best:2", "best:5"))
    assert all(epochs <= larger[trial_id] for trial_id, epochs in smaller.items())


@pytest.mark.parametrize("policy", ["best", "best:3", "last", "all"])
def test_policies_read_back(policy):
    assert str(Retention.parse(policy)) == policy


@pytest.mark.parametrize("text", ["", "best:", "best:0", "best:-1", "best 3", "worst", "all:2", None, 3])
def test_what_is_no_policy(text):
    with pytest.raises(ConfigError, match="keep_checkpoints: must be best, best:k"):
        Retention.parse(text)
