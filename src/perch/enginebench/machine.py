"""Where a run took place, for the report."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version

from perch.enginebench import proc

_PACKAGES = {
    "sherpa-onnx": ("sherpa-onnx",),
    "transformers": ("transformers", "torch"),
    "nemo": ("nemo-toolkit", "torch"),
    "onnx-asr": ("onnx-asr", "onnxruntime"),
}


def machine(*libraries: str) -> dict[str, str]:
    """The processor, what else it does, and the versions of these libraries."""
    packages = dict.fromkeys(name for library in libraries for name in _PACKAGES.get(library, ()))
    versions = [f"{name} {found}" for name in packages if (found := _version(name))]
    return {
        "processor": f"{proc.processor()}, {len(os.sched_getaffinity(0))} cores",
        "load average before": f"{os.getloadavg()[0]:.1f}",
        "software": ", ".join([f"Python {platform.python_version()}", *versions]),
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
