"""Which of a model's weights suit this machine."""

import shutil
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path

from perch.core.extras import how_to_install
from perch.errors import BadConfig
from perch.registry.catalogue import Entry, Weights

_DRIVER = Path("/proc/driver/nvidia")

_MODULES = {
    "sherpa-onnx": ("sherpa_onnx",),
    "transformers": ("torch", "transformers"),
    "nemo": ("torch", "nemo"),
    "onnx-asr": ("onnx", "onnx_asr"),
}
"""What is imported for each library: the backends, and one that is only measured beside them."""

_EXTRAS = {"sherpa-onnx": "onnx", "transformers": "transformers", "nemo": "nemo", "onnx-asr": "onnx-asr"}
"""The extra that brings it."""


def is_installed(library: str) -> bool:
    return all(map(find_spec, _MODULES[library]))


def lacking(library: str) -> str:
    """What to say where ``library`` is not installed."""
    return f"{library} is not installed: {how_to_install(_EXTRAS[library])}"


def has_cuda(environment: Mapping[str, str], driver: Path = _DRIVER) -> bool:
    """Whether there is an NVIDIA driver; no library is loaded to find out."""
    return driver.exists() or shutil.which("nvidia-smi", path=environment.get("PATH")) is not None


def choose(
    entry: Entry, *, backend: str | None, cuda: bool, is_installed: Callable[[str], bool] = is_installed
) -> Weights:
    """The weights of ``backend``, or else the best that can be run on a machine with or without CUDA.

    If what runs them is still to be installed for all, the best.

    Raises:
        BadConfig: There are none; names those there are.
    """
    if backend is not None:
        return _of_backend(entry, backend)
    wanted = ("cuda", "cpu") if cuda else ("cpu",)
    fitting = [weights for device in wanted for weights in entry.weights if weights.device == device]
    if fitting:
        return next((weights for weights in fitting if is_installed(weights.backend)), fitting[0])
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
