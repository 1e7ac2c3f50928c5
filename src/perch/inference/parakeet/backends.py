"""From the name of a library to the function that loads a model with it: imported only when asked for."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from perch.errors import BadConfig
from perch.inference.parakeet.model import LoadOptions, Model

_MODULES = {
    "sherpa-onnx": "perch.inference.parakeet.sherpa",
    "transformers": "perch.inference.parakeet.transformers",
    "nemo": "perch.inference.parakeet.nemo",
}
_FOR_TESTS = {"tones": "perch.inference.parakeet.tones"}
BACKENDS = tuple(_MODULES)
"""Those that users choose from."""


def is_backend(name: str) -> bool:
    """Whether ``backend`` knows it."""
    return name in _MODULES or name in _FOR_TESTS


def backend(name: str) -> Callable[[LoadOptions], Model]:
    """The loader of a backend.

    Raises:
        BadConfig: There is no backend of that name.
    """
    if not is_backend(name):
        raise BadConfig(f"There is no backend named {name!r}; there are: {', '.join(BACKENDS)}.")
    load: Callable[[LoadOptions], Model] = import_module({**_MODULES, **_FOR_TESTS}[name]).load
    return load


def backend_of(weights: Path) -> str:
    """The backend for weights, told by their files.

    Raises:
        BadConfig: There is nothing that a backend loads.
    """
    if weights.suffix == ".nemo" and weights.is_file():
        return "nemo"
    if (weights / "config.json").is_file():
        return "transformers"
    if any(weights.glob("*.onnx")) and (weights / "tokens.txt").is_file():
        return "sherpa-onnx"
    if any(weights.glob("*.safetensors")):
        raise BadConfig(
            f"{weights / 'config.json'} is missing: a checkpoint has it beside the *.safetensors files."
        )
    if any(weights.glob("*.onnx")):
        raise BadConfig(
            f"{weights / 'tokens.txt'} is missing: a model's export has it beside the *.onnx files."
        )
    raise BadConfig(
        f"{weights} holds no model: give a folder with config.json (transformers) or with *.onnx files and "
        "tokens.txt (sherpa-onnx), or a .nemo file."
    )
