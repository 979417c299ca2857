"""Small studies of a quick function, for tests of what becomes of them."""

import trainings

from mlflow_hpo import SearchSpace, Study


def searched(train=trainings.quick, *, space=None, **keys):
    """Run a small study and return it."""
    defaults = {"metric": "loss", "mode": "min", "searcher": "random", "scheduler": "asha"}
    study = Study(train, space or SearchSpace(trainings.SPACE), **(defaults | keys))
    study.run()
    return study
