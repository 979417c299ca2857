"""Tests that every searcher, scheduler and launcher passes, for packages that bring their own.

A test module of such a package derives classes whose names begin with `Test`; any runner that finds them will
do, such as pytest:

```python
from mlflow_hpo.testing import Conformance, LauncherConformance


class TestMySearcher(Conformance):
    searcher = {"name": "mine", "option": 3}


class TestMyLauncher(LauncherConformance):
    launcher = "mine"
```

With ``pytest.register_assert_rewrite("mlflow_hpo.testing")`` in its conftest.py,
pytest shows what is not equal.
"""

from mlflow_hpo.testing.engine import SPACE, Conformance, drive, error
from mlflow_hpo.testing.launchers import LauncherConformance

__all__ = ["SPACE", "Conformance", "LauncherConformance", "drive", "error"]
