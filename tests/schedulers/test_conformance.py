"""Schedulers with options that the tests of every searcher with every scheduler leave out."""

from __future__ import annotations

import pytest
from conformance import Conformance

from mlflow_hpo.errors import ConfigError


class TestAshaInBrackets(Conformance):
    scheduler = {"name": "asha", "brackets": 3}  # noqa: RUF012

    def test_one_resource_only(self):
        with pytest.raises(ConfigError, match="at most 1, the number of rungs, got 3"):
            self.optimizer(30, min_resource=5, max_resource=5)
