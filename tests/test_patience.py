"""MLflow's settings are lowered for a while, for this process only."""

import os
import threading

from mlflow_hpo.patience import IMPATIENT, impatient, lasting_environment

TIMEOUT, RETRIES = "MLFLOW_HTTP_REQUEST_TIMEOUT", "MLFLOW_HTTP_REQUEST_MAX_RETRIES"


def test_what_the_user_has_set_stays(monkeypatch):
    for name in IMPATIENT:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(TIMEOUT, "600")
    before = dict(os.environ)
    with impatient():
        assert os.environ[TIMEOUT] == "600"
        assert os.environ[RETRIES] == IMPATIENT[RETRIES]
        assert lasting_environment() == before
    assert dict(os.environ) == before


def test_threads_that_are_impatient_at_the_same_time(monkeypatch):
    for name in IMPATIENT:
        monkeypatch.delenv(name, raising=False)
    inside, leave = threading.Event(), threading.Event()

    def other():
        with impatient():
            inside.set()
            leave.wait()

    with impatient():
        thread = threading.Thread(target=other)
        thread.start()
        inside.wait()
    assert IMPATIENT.items() <= os.environ.items()  # the other one is still at it
    assert lasting_environment().keys().isdisjoint(IMPATIENT)
    leave.set()
    thread.join()
    assert os.environ.keys().isdisjoint(IMPATIENT)
