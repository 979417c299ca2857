"""Callbacks for trainers that are not installed."""

import importlib
import sys

import pytest

from mlflow_hpo import ConfigError


@pytest.mark.parametrize(
    ("extra", "framework"), [("lightning", "lightning.pytorch"), ("transformers", "transformers")]
)
def test_without_the_framework_the_extra_is_named(monkeypatch, extra, framework):
    monkeypatch.setitem(sys.modules, framework, None)
    monkeypatch.delitem(sys.modules, f"mlflow_hpo.integrations.{extra}", raising=False)
    with pytest.raises(ConfigError, match=rf"pip install 'mlflow-hpo\[{extra}\]'"):
        importlib.import_module(f"mlflow_hpo.integrations.{extra}")
