"""One thread for the models' matrices, and afterwards as many as before."""

from threadpoolctl import threadpool_info, threadpool_limits

from mlflow_hpo.searchers.threads import one_thread


def blas():
    return {each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"}


def test_it_may_be_entered_again():
    with threadpool_limits(2, user_api="blas"):
        with one_thread():
            with one_thread():
                assert blas() == {1}
            assert blas() == {1}
        assert blas() == {2}
