"""Which fixed parameters of a project are not shown."""

import pytest

from mlflow_hpo.projects.project import SECRET


@pytest.mark.parametrize(
    "name",
    ["password", "db_pass", "HF_TOKEN", "api_key", "apiKey", "AWS_SECRET_ACCESS_KEY", "key", "client-secret"],
)
def test_a_secret_is_one(name):
    assert SECRET.search(name)


@pytest.mark.parametrize("name", ["max_tokens", "tokenizer", "passes", "keypoints", "group_key", "monkey"])
def test_a_word_with_the_same_letters_is_none(name):
    assert not SECRET.search(name)
