"""Seeds of the trials."""

from __future__ import annotations

import numpy as np


def trial_seed(seed: int, trial_id: int) -> int:
    """Return the seed of one trial, derived from the study's.

    >>> trial_seed(0, 1), trial_seed(0, 2), trial_seed(1, 1)
    (3964924996, 3141116543, 1189033389)
    """
    return int(np.random.SeedSequence([seed, trial_id]).generate_state(1)[0])
