"""Can trials use the GPUs of this machine?"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mlflow_hpo.doctor.findings import Finding, fault, ok, warning
from mlflow_hpo.launchers.mps import mps_pipes

SUBJECT = "gpu"
VISIBLE = "CUDA_VISIBLE_DEVICES"
PCI = Path("/sys/bus/pci/devices")
_NVIDIA, _DISPLAY = "0x10de", "0x03"  # PCI vendor; begin of the class


@dataclass(frozen=True, slots=True)
class Driver:
    """What the NVIDIA driver says."""

    version: str
    cuda: str  # the newest CUDA that it can do
    names: tuple[str, ...]  # of the GPUs


@dataclass(frozen=True, slots=True)
class Torch:
    """What torch says."""

    version: str
    cuda: str  # that it was built for, "" if for none
    rocm: str
    names: tuple[str, ...]  # of the devices that it can use


def check_gpu() -> Iterator[Finding]:
    """Check that the driver, the build of torch and the settings fit; having no GPU is fine."""
    try:
        torch = ask_torch()
    except Exception as error:  # noqa: BLE001  a broken build may raise anything
        line = f"{type(error).__name__}: {' '.join(str(error).split()):.200}"
        yield fault("torch", f"cannot be imported: {line}", "pip install --force-reinstall torch")
        return
    driver = ask_driver()
    yield judge(driver, torch, os.environ.get(VISIBLE), on_bus=isinstance(driver, str) and nvidia_on_bus())
    if torch.names and (pipes := mps_pipes()) is not None:
        yield ok(SUBJECT, f"CUDA MPS runs ({pipes}): trials that share a GPU use it")


def judge(driver: Driver | str, torch: Torch, visible: str | None, *, on_bus: bool) -> Finding:
    """Return what is to be said of a machine.

    Args:
        driver: what it says, or why there is none.
        torch: what it says.
        visible: the setting of CUDA_VISIBLE_DEVICES.
        on_bus: whether there is an NVIDIA GPU that no driver tells of.
    """
    if torch.names:
        build = f"ROCm {torch.rocm}" if torch.rocm else f"CUDA {torch.cuda}"
        about = f", driver {driver.version}" if isinstance(driver, Driver) else ""
        return ok(SUBJECT, f"{', '.join(torch.names)} (torch {torch.version} for {build}{about})")
    if isinstance(driver, str):
        if on_bus:
            return warning(
                SUBJECT,
                f"there is an NVIDIA GPU, but no driver answers ({driver}); trials run on CPU cores",
                "install the NVIDIA driver (check with nvidia-smi), reboot after an update of it, or start "
                "the container with --gpus all",
            )
        return ok(SUBJECT, f"none ({driver}); trials run on CPU cores, torch {torch.version}")
    if not driver.names:
        return ok(SUBJECT, f"none (driver {driver.version}); trials run on CPU cores, torch {torch.version}")
    found = f"{', '.join(driver.names)} (driver {driver.version})"
    if not torch.cuda:
        return warning(
            SUBJECT,
            f"{found}, but torch {torch.version} is a build for CPUs; trials run on CPU cores",
            "install a CUDA build: pip uninstall torch, then pip install torch with the index that "
            f"https://pytorch.org/get-started/locally names for CUDA {driver.cuda} or older",
        )
    if visible is not None and visible.strip() in ("", "-1", "NoDevFiles"):
        return warning(
            SUBJECT, f"{found}, hidden by {VISIBLE}={visible}; trials run on CPU cores", f"unset {VISIBLE}"
        )
    return warning(
        SUBJECT,
        f"{found}, but torch {torch.version} for CUDA {torch.cuda} cannot use it"
        + (f" with {VISIBLE}={visible}" if visible is not None else ""),
        f"install a driver for CUDA {torch.cuda} (this one knows CUDA {driver.cuda}), or a torch for CUDA "
        f"{driver.cuda} or older"
        + (f"; check that {VISIBLE} names GPUs that there are" if visible is not None else ""),
    )


def ask_driver() -> Driver | str:
    """Return what the NVIDIA driver says, or why there is none."""
    import pynvml

    try:
        pynvml.nvmlInit()
        try:
            cuda = int(pynvml.nvmlSystemGetCudaDriverVersion())
            handles = [
                pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())
            ]
            return Driver(
                str(pynvml.nvmlSystemGetDriverVersion()),
                f"{cuda // 1000}.{cuda % 1000 // 10}",
                tuple(str(pynvml.nvmlDeviceGetName(handle)) for handle in handles),
            )
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError as error:
        return f"NVIDIA driver: {error}"


def ask_torch() -> Torch:
    """Return what torch says; it may raise anything where it is broken."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a driver that is too old: told as a finding
        import torch

        usable = torch.cuda.is_available()
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if usable else []
    return Torch(torch.__version__, torch.version.cuda or "", torch.version.hip or "", tuple(names))


def nvidia_on_bus(devices: Path = PCI) -> bool:
    """Return whether an NVIDIA GPU is on the PCI bus, with a driver or without."""
    try:
        return any(
            (device / "vendor").read_text().strip() == _NVIDIA
            and (device / "class").read_text().startswith(_DISPLAY)
            for device in devices.iterdir()
        )
    except OSError:
        return False
