"""What an ONNX file says of itself, without loading it: metadata, and the shapes of what goes in and out.

sherpa-onnx ends the process over metadata that it does not like, so a file is judged before the library
sees it. An encoder has hundreds of megabytes of weights, of which none are read here.

The numbers of fields are those of ``onnx.proto3``, which never change.
"""

import mmap
from dataclasses import dataclass
from pathlib import Path

from perch.errors import EngineFailed
from perch.inference.parakeet.protobuf import Message

Shape = tuple[int | None, ...]
"""None is a dimension that may be any."""

_GRAPH, _METADATA = 7, 14
_INPUT, _OUTPUT = 11, 12


@dataclass(frozen=True, slots=True)
class Header:
    """A file's metadata, and the shapes of its inputs and outputs in their order."""

    path: Path
    metadata: dict[str, str]
    inputs: tuple[Shape, ...]
    outputs: tuple[Shape, ...]


def read_header(path: Path) -> Header:
    """The header of an ONNX file.

    Raises:
        EngineFailed: It is not there, is no ONNX file, or is cut off.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _header(path, Message(data, 0, len(data)))
    except OSError as problem:
        raise EngineFailed(f"{path} cannot be read: {problem.strerror}.") from problem
    except (ValueError, IndexError) as problem:
        raise EngineFailed(
            f"{path} is not an ONNX file or is not all there: download or export it again."
        ) from problem


def _header(path: Path, model: Message) -> Header:
    graph, metadata = None, {}
    for number, value in model.fields():
        if number == _GRAPH and isinstance(value, Message):
            graph = value
        elif number == _METADATA and isinstance(value, Message):
            metadata[value.text(1)] = value.text(2)
    if graph is None:
        raise ValueError("no graph")
    values: dict[int, list[Shape]] = {_INPUT: [], _OUTPUT: []}
    for number, value in graph.fields():
        if number in values and isinstance(value, Message):
            values[number].append(_shape(value))
    return Header(path, metadata, tuple(values[_INPUT]), tuple(values[_OUTPUT]))


def _shape(value: Message) -> Shape:
    """Of a ``ValueInfoProto``: its type (2), that is a tensor (1), its shape (2), dimensions (1), value (1)."""
    return tuple(dimension.integer(1) for dimension in value.messages(2, 1, 2, 1))
