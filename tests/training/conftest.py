from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from training.memory import MemoryChannel


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def channel(tmp_path: Path) -> MemoryChannel:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    return MemoryChannel(folder)
