"""Which of a model's weights suit this machine."""

import shutil
from collections.abc import Mapping
from pathlib import Path

from perch.errors import BadConfig
from perch.registry.catalogue import Entry, Weights

_DRIVER = Path("/proc/driver/nvidia")


def has_cuda(environment: Mapping[str, str], driver: Path = _DRIVER) -> bool:
    """Whether there is an NVIDIA driver; no library is loaded to find out."""
    return driver.exists() or shutil.which("nvidia-smi", path=environment.get("PATH")) is not None


def choose(entry: Entry, *, backend: str | None, cuda: bool) -> Weights:
    """The weights of ``backend``, or else the best for a machine with or without CUDA.

    Raises:
        BadConfig: There are none; names those there are.
    """
    if backend is not None:
        return _of_backend(entry, backend)
    wanted = ("cuda", "cpu") if cuda else ("cpu",)
    for device in wanted:
        for weights in entry.weights:
            if weights.device == device:
                return weights
    raise BadConfig(
        f"{entry.id} has no weights for the CPU, and there is no NVIDIA driver here. There are: "
        f"{described(entry)}. Say which with --backend if they are for another machine."
    )


def _of_backend(entry: Entry, backend: str) -> Weights:
    for weights in entry.weights:
        if weights.backend == backend:
            return weights
    raise BadConfig(f"{entry.id} has no weights for {backend}; there are: {described(entry)}.")


def described(entry: Entry) -> str:
    """The published forms of a model's weights, in words."""
    return ", ".join(
        f"{weights.backend} ({weights.device.upper()}, {weights.gigabytes:g} GB)" for weights in entry.weights
    )
