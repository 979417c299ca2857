"""Every built-in searcher with every built-in scheduler."""

from __future__ import annotations

from itertools import product

import pytest
from conformance import Conformance

from mlflow_hpo.schedulers import SCHEDULERS
from mlflow_hpo.searchers import SEARCHERS

MANY = {"random": 10_000, "tpe": 200}


@pytest.mark.parametrize(
    "engine",
    [*product(SEARCHERS.names, SCHEDULERS.names)],
    indirect=True,
    ids=lambda engine: "-".join(engine),
)
class TestBuiltIn(Conformance):
    @pytest.fixture(autouse=True)
    def engine(self, request):
        self.searcher, self.scheduler = request.param
        self.many = MANY.get(self.searcher, 200)
