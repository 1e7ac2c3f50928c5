"""Whether the files of a transformers checkpoint are all there, by their names and sizes.

The library finds that out too, and then speaks of headers, or of a package that would read another kind of file.
"""

import json
from pathlib import Path

from perch.errors import EngineFailed

_LENGTH = 8
"""Bytes at the start of a safetensors file: how long the header is, little-endian."""
_INDEX = "model.safetensors.index.json"
_ONE_OF = (
    ("tokenizer.json", "tokenizer.model"),
    ("processor_config.json", "preprocessor_config.json"),
    ("model.safetensors", _INDEX, "pytorch_model.bin", "pytorch_model.bin.index.json"),
)
"""Of each, a folder needs one; the first is the usual one."""


def check(folder: Path) -> None:
    """That nothing is missing or cut off.

    Raises:
        EngineFailed: Something is; the message names the file.
    """
    for names in _ONE_OF:
        if not any((folder / name).is_file() for name in names):
            raise _missing(folder / names[0])
    for path in _weights(folder):
        if not path.is_file():
            raise _missing(path)
        _check_whole(path)


def _weights(folder: Path) -> set[Path]:
    """The one file, or those that an index names."""
    if (whole := folder / "model.safetensors").is_file():
        return {whole}
    try:
        names = set(json.loads((folder / _INDEX).read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return set()  # there is none, or the library says what is wrong with it
    return {folder / str(name) for name in names}


def _check_whole(path: Path) -> None:
    """That a file is as long as its header says."""
    size = path.stat().st_size
    with path.open("rb") as file:
        header_ends = _LENGTH + int.from_bytes(file.read(_LENGTH), "little")
        if (
            header_ends > size
        ):  # also where the first bytes are no length, as in an error page or a pointer of git's
            raise EngineFailed(f"{path} ({size} bytes) is no whole safetensors file: download it again.")
        needed = header_ends + _data(file.read(header_ends - _LENGTH))
    if size < needed:
        raise EngineFailed(f"{path} is not all there ({size} of {needed} bytes): download it again.")


def _data(header: bytes) -> int:
    """Bytes of tensors behind a header; 0 of one that cannot be read, of which the library says what is wrong."""
    try:
        tensors = json.loads(header)
        return max(int(facts["data_offsets"][1]) for name, facts in tensors.items() if name != "__metadata__")
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        return 0


def _missing(path: Path) -> EngineFailed:
    return EngineFailed(f"{path} is missing: download the model again, with all of its files.")
