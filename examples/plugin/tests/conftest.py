import pytest

pytest.register_assert_rewrite("mlflow_hpo.testing")
