"""What a study does at its end."""

import pytest

from mlflow_hpo.conclusion import log_model
from mlflow_hpo.errors import CorruptCheckpointError, StudyError
from mlflow_hpo.optimizer import BestTrial


@pytest.mark.parametrize("error", [StudyError("may not register"), CorruptCheckpointError("other bytes")])
def test_a_model_that_cannot_be_logged_fails_no_search(tmp_path, error):
    class Books:
        def best_checkpoint(self, best, folder):
            raise error

    best = BestTrial(trial_id=0, config={}, value=1.0, resource=1)
    assert log_model(None, best, Books(), None, tmp_path, register_as="model") == str(error)
