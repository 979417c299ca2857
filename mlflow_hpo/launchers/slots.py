"""Slots: how the GPUs and CPU cores of this machine are divided among trials."""

from __future__ import annotations

import math
import os
from dataclasses import replace

from mlflow_hpo.errors import ConfigError
from mlflow_hpo.launchers.base import Slot
from mlflow_hpo.launchers.host_cores import usable_cores
from mlflow_hpo.launchers.mps import by_mps

_OPENMP = "OMP_NUM_THREADS"
_THREADS = (_OPENMP, "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_ROUNDING = "MKL_CBWR"


def slots_here(workers: int, gpus_per_trial: float | None, threads: int | None = None) -> list[Slot]:
    """Return the slots of `workers` trials on this machine, each with so many threads, or its share of the
    cores as far as the user's variables allow. Raises what `make_slots` does.
    """
    slots = by_mps(make_slots(workers, visible_gpus(), usable_cores(), gpus_per_trial))
    return slots if threads is None else [replace(slot, env=slot.env | on_cores(threads)) for slot in slots]


def on_cores(threads: int) -> dict[str, str]:
    """Return variables by which libraries use so many threads of the CPU.

    MKL, with which torch multiplies matrices on it, is told to round the same with any number of threads and
    wherever data lie in memory, unless the user has said otherwise.

    >>> on_cores(2)["OMP_NUM_THREADS"]
    '2'
    """
    return {
        **dict.fromkeys(_THREADS, str(threads)),
        _ROUNDING: os.environ.get(_ROUNDING, "AUTO,STRICT"),
    }


def within(cores: int) -> dict[str, str]:
    """Return variables by which libraries use so many threads of the CPU, or as many as the user's own
    variables say where that is fewer.

    The libraries take what `OMP_NUM_THREADS` says where theirs is not set: so does this.
    """
    general = _of_user(_OPENMP, cores)
    return on_cores(cores) | {name: str(min(cores, _of_user(name, general))) for name in _THREADS}


def _of_user(name: str, otherwise: int) -> int:
    """Return the number of threads that the user has set; `otherwise` where it is no whole number above 0."""
    text = os.environ.get(name, "").strip()
    return int(text) if text.isascii() and text.isdecimal() and int(text) > 0 else otherwise


def visible_gpus() -> list[str]:
    """Return the ids of the CUDA devices that this process may use and that torch can use; [] when there is
    none.

    NVML is asked rather than torch: the driver process need not hold a CUDA context.
    """
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is not None:
        ids = [name.strip() for name in allowed.split(",") if name.strip() not in ("", "-1")]
    else:
        import pynvml

        try:
            pynvml.nvmlInit()
            ids = [str(index) for index in range(pynvml.nvmlDeviceGetCount())]
            pynvml.nvmlShutdown()
        except pynvml.NVMLError:
            return []
    if not ids:
        return []
    import torch

    return ids if torch.version.cuda is not None else []  # a CPU build of torch can't use them


def make_slots(workers: int, gpus: list[str], cores: int, gpus_per_trial: float | None = None) -> list[Slot]:
    """Divide GPUs and CPU threads among `workers` slots.

    Args:
        workers: how many slots.
        gpus: ids of the GPUs.
        cores: CPU cores, which the slots share equally; the user's variables may leave them less.
        gpus_per_trial: what each slot gets: a share of a GPU, whole GPUs, or none (0). None: the slots are
            dealt out over the GPUs, however many they are.

    Raises:
        ConfigError: there are too few GPUs for that, or `workers` is not 1 or more.

    >>> [slot.env["CUDA_VISIBLE_DEVICES"] for slot in make_slots(3, ["0", "1"], 8)]
    ['0', '1', '0']
    >>> [slot.env["CUDA_VISIBLE_DEVICES"] for slot in make_slots(2, ["0", "1", "2", "3"], 8, 2)]
    ['0,1', '2,3']
    >>> [(slot.device, slot.gpus) for slot in make_slots(2, [], 8)]
    [('cpu', 0.0), ('cpu', 0.0)]
    """
    if workers < 1:
        raise ConfigError("workers", f"must be 1 or more, got {workers}")
    if gpus_per_trial is None:
        shares = [_dealt_out(number, workers, gpus) for number in range(workers)]
    else:
        _check(workers, len(gpus), gpus_per_trial)
        shares = [_granted(number, gpus, gpus_per_trial) for number in range(workers)]
    threads = within(max(1, cores // workers))
    return [
        Slot(number, "cuda:0" if share else "cpu", share, {**threads, **visible})
        for number, (share, visible) in enumerate(shares)
    ]


def _dealt_out(number: int, workers: int, gpus: list[str]) -> tuple[float, dict[str, str]]:
    """Return a slot's share of a GPU, and what it sees of them."""
    if not gpus:
        return 0.0, {}
    gpu = number % len(gpus)
    sharing = len(range(gpu, workers, len(gpus)))
    return 1 / sharing, {"CUDA_VISIBLE_DEVICES": gpus[gpu]}


def _granted(number: int, gpus: list[str], each: float) -> tuple[float, dict[str, str]]:
    """Return what a slot holds of GPUs, and what it sees of them."""
    if each == 0:
        return 0.0, {"CUDA_VISIBLE_DEVICES": ""}
    if each < 1:
        return each, {"CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)]}
    first = number * int(each)
    return each, {"CUDA_VISIBLE_DEVICES": ",".join(gpus[first : first + int(each)])}


def _check(workers: int, gpus: int, each: float) -> None:
    if each == 0:
        return
    if not gpus:
        raise ConfigError("gpus_per_trial", f"must be 0 or left out, as no GPU is visible here, got {each:g}")
    room = gpus * math.floor(1 / each + 1e-9) if each < 1 else gpus // int(each)
    if workers > room:
        raise ConfigError(
            "gpus_per_trial",
            f"must leave room for all workers ({workers}): of the {gpus} GPUs here, {room} trials get "
            f"{each:g} each",
        )
