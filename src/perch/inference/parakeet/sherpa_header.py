"""What an ONNX file says of itself, without loading it: metadata, and the shapes of what goes in and out.

sherpa-onnx ends the process over metadata that it does not like, so a file is judged before the library
sees it. An encoder has hundreds of megabytes of weights, of which none are read here: the file is a
protobuf, in which every field says how long it is.

The numbers of fields are those of ``onnx.proto3``, which never change.
"""

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from perch.errors import EngineFailed

Shape = tuple[int | None, ...]
"""None is a dimension that may be any."""

_GRAPH, _METADATA = 7, 14
_INPUT, _OUTPUT = 11, 12
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


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
            return _header(path, _Message(data, 0, len(data)))
    except OSError as problem:
        raise EngineFailed(f"{path} cannot be read: {problem.strerror}.") from problem
    except (ValueError, IndexError) as problem:
        raise EngineFailed(
            f"{path} is not an ONNX file or is not all there: download or export it again."
        ) from problem


class _Message:
    """A protobuf message in ``data[start:end]``."""

    def __init__(self, data: mmap.mmap, start: int, end: int) -> None:
        self._data = data
        self._start = start
        self._end = end

    def fields(self) -> Iterator[tuple[int, "_Message | int"]]:
        """Each field's number, and its bytes as a message or its integer.

        Raises:
            ValueError: This is not a message.
            IndexError: It ends too early.
        """
        at = self._start
        while at < self._end:
            key, at = self._varint(at)
            number, kind = key >> 3, key & 7
            if kind == _VARINT:
                value, at = self._varint(at)
                yield number, value
            elif kind == _BYTES:
                length, at = self._varint(at)
                yield number, _Message(self._data, at, at + length)
                at += length
            elif kind in {_FIXED64, _FIXED32}:
                at += 8 if kind == _FIXED64 else 4
            else:
                raise ValueError(f"wire type {kind}")
        if at != self._end:
            raise IndexError("cut off")

    def messages(self, *path: int) -> Iterator["_Message"]:
        """The messages at a path of field numbers."""
        for number, value in self.fields():
            if number == path[0] and isinstance(value, _Message):
                yield from value.messages(*path[1:]) if path[1:] else (value,)

    def integer(self, number: int) -> int | None:
        return next((v for n, v in self.fields() if n == number and isinstance(v, int)), None)

    def text(self, number: int) -> str:
        return next((m.raw().decode() for m in self.messages(number)), "")

    def raw(self) -> bytes:
        return self._data[self._start : self._end]

    def _varint(self, at: int) -> tuple[int, int]:
        value = shift = 0
        while True:
            byte = self._data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value, at
            if shift > 63:
                raise ValueError("no integer")


def _header(path: Path, model: _Message) -> Header:
    graph, metadata = None, {}
    for number, value in model.fields():
        if number == _GRAPH and isinstance(value, _Message):
            graph = value
        elif number == _METADATA and isinstance(value, _Message):
            metadata[value.text(1)] = value.text(2)
    if graph is None:
        raise ValueError("no graph")
    values: dict[int, list[Shape]] = {_INPUT: [], _OUTPUT: []}
    for number, value in graph.fields():
        if number in values and isinstance(value, _Message):
            values[number].append(_shape(value))
    return Header(path, metadata, tuple(values[_INPUT]), tuple(values[_OUTPUT]))


def _shape(value: _Message) -> Shape:
    """Of a ``ValueInfoProto``: its type (2), that is a tensor (1), its shape (2), dimensions (1), value (1)."""
    return tuple(dimension.integer(1) for dimension in value.messages(2, 1, 2, 1))
