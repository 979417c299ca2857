import shutil

import pytest

from mlflow_hpo.trial import Trial


class Kept:
    """A channel that keeps checkpoints in a folder; it says stop at one epoch."""

    def __init__(self, folder, stop_at=None):
        self.folder, self.stop_at = folder, stop_at
        self.reports, self.saved = {}, {}

    def report(self, epoch, metrics):
        self.reports[epoch] = metrics
        return epoch != self.stop_at

    def save(self, epoch, path):
        self.saved[epoch] = self.folder / f"{epoch}.ckpt"
        shutil.copy(path, self.saved[epoch])

    def load(self):
        return max(self.saved.items()) if self.saved else None

    def trial(self, stop):
        """The trial's next job, that ends at an epoch."""
        return Trial({"learning_rate": 0.05}, stop=stop, seed=3, device="cpu", channel=self)


@pytest.fixture
def kept(tmp_path):
    def make(**options):
        folder = tmp_path / f"channel-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        return Kept(folder, **options)

    return make
