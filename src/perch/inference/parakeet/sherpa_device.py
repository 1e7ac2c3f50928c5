"""Whether sherpa-onnx can use a GPU: it says nothing but falls back to the CPU if it cannot."""

import ctypes
from pathlib import Path
from typing import Any, Literal

from perch.errors import BadConfig
from perch.inference.parakeet.model import LoadOptions
from perch.inference.parakeet.sherpa_files import has_float32

Device = Literal["cpu", "cuda"]

CUDA_WHEELS = "https://k2-fsa.github.io/sherpa/onnx/cuda.html"


def device_of(library: Any, options: LoadOptions) -> Device:
    """Where the model runs; the CPU unless a GPU is asked for or everything for one is there.

    Raises:
        BadConfig: CUDA was asked for, and something for it is missing.
    """
    if options.device == "cpu":
        return "cpu"
    missing = _missing(library, options)
    if options.device == "cuda" and missing:
        raise BadConfig(missing)
    return "cpu" if missing else "cuda"


def _missing(library: Any, options: LoadOptions) -> str | None:
    """What CUDA lacks, and what to do about it."""
    if not is_cuda_build(Path(library.__file__).parent):
        return (
            f"The sherpa-onnx that is installed, {library.__version__}, is a build for the CPU. For CUDA install "
            f"one of the wheels with +cuda in their version from {CUDA_WHEELS}, or give --device cpu."
        )
    if not gpus():
        return "There is no GPU that CUDA can use: check nvidia-smi, or give --device cpu."
    if options.dtype == "int8" or not has_float32(Path(options.path)):
        return "An int8 export is for the CPU: give --device cpu, or export the model in float32 for the GPU."
    return None


def is_cuda_build(package: Path) -> bool:
    """Whether an installed sherpa-onnx has onnxruntime's CUDA provider beside it."""
    return any(package.glob("lib/*onnxruntime_providers_cuda*"))


def gpus() -> int:
    """The GPUs that NVIDIA's driver gives to this process."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return 0
    return count.value
