import hashlib

import pytest

from mlflow_hpo.errors import CorruptCheckpointError
from mlflow_hpo.tracking.checkpoints import ArtifactCheckpoints


@pytest.fixture
def store(tmp_path):
    return ArtifactCheckpoints(str(tmp_path / "artifacts"), "sqlite://")


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "state.pt"
    path.write_bytes(b"weights")
    return path


def stored_file(tmp_path, name):
    return tmp_path / "artifacts" / "checkpoints" / name


def test_a_checkpoint_carries_its_hash_and_comes_back(store, checkpoint, tmp_path):
    name = store.upload(9, checkpoint)
    assert name == f"epoch-0009.{hashlib.sha256(b'weights').hexdigest()}.ckpt"
    path = store.download(name, tmp_path / "back")
    assert path.read_bytes() == b"weights"
    assert stored_file(tmp_path, name).is_file()
    assert [entry.name for entry in (tmp_path / "back").iterdir()] == [path.name]


def test_names_are_newest_first_and_foreign_files_are_none_of_ours(store, checkpoint, tmp_path):
    assert store.names() == []
    for epoch in (3, 27, 9, 10_000):
        store.upload(epoch, checkpoint)
    stored_file(tmp_path, "epoch-0099.ckpt").touch()
    stored_file(tmp_path, "notes.txt").touch()
    assert [epoch for epoch, _ in store.names()] == [10_000, 27, 9, 3]


@pytest.mark.parametrize("content", [b"", b"weight", b"weightS"])
def test_a_torn_or_altered_checkpoint_is_found_out(store, checkpoint, tmp_path, content):
    name = store.upload(1, checkpoint)
    stored_file(tmp_path, name).write_bytes(content)
    with pytest.raises(CorruptCheckpointError, match="has the SHA-256"):
        store.download(name, tmp_path / "back")
    assert list((tmp_path / "back").iterdir()) == []


@pytest.mark.parametrize("name", ["../../etc/passwd", "epoch-1.ckpt", f"epoch-1.{'0' * 64}.ckpt/../x"])
def test_only_names_of_checkpoints_are_fetched(store, tmp_path, name):
    with pytest.raises(CorruptCheckpointError, match="is not the name of a checkpoint"):
        store.download(name, tmp_path)


def test_delete_removes_one_checkpoint_and_minds_no_absence(store, checkpoint):
    first, second = store.upload(1, checkpoint), store.upload(2, checkpoint)
    store.delete(first)
    store.delete(first)
    assert store.names() == [(2, second)]
