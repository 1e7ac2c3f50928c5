"""Signed weights for processors that multiply them several times as fast as unsigned ones.

Activations of an 8-bit model are unsigned, and exporters make its weights unsigned too: that is exact on
every processor. But x86's VNNI instructions multiply unsigned by signed numbers only, and onnxruntime then
does without them. A weight and its zero point that are both 128 less are the same weight, and in two's
complement that is one bit of each. So where there is VNNI, the model is loaded from a copy in memory in
which that bit is flipped: the same numbers come out, in half of the time for several streams.

Without VNNI signed weights would be as fast, but wrong: onnxruntime's sums of two products overflow there.

The numbers of fields are those of ``onnx.proto3``.
"""

import mmap
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from perch.inference.parakeet.protobuf import Field, Message, bytes_field, integer_field

_CPU = Path("/proc/cpuinfo")
_FLAGS = frozenset({"avx512_vnni", "avx_vnni"})

_GRAPH = 7
_NODE, _INITIALIZER, _OUTPUT = 1, 5, 12
_NODE_INPUT, _NODE_TYPE, _NODE_ATTRIBUTE, _ATTRIBUTE_GRAPH = 1, 4, 5, 6
_TENSOR_TYPE, _TENSOR_NUMBERS, _TENSOR_NAME, _TENSOR_RAW, _TENSOR_ELSEWHERE = 2, 5, 8, 9, 14
_UINT8, _INT8 = 2, 3
_SIGN = 0x80

_PRODUCT = "MatMulInteger"
_WEIGHT, _ZERO_POINT = 1, 3
"""Inputs of a product, beside activations and their zero point."""


def is_faster(cpu: Path = _CPU) -> bool:
    """Whether this processor has VNNI."""
    try:
        with cpu.open(encoding="ascii", errors="replace") as lines:
            flags = next((line for line in lines if line.startswith("flags")), "")
    except OSError:
        return False
    return not _FLAGS.isdisjoint(flags.split())


@contextmanager
def signed(parts: Mapping[str, Path]) -> Iterator[dict[str, Path]]:
    """The files of a model with signed weights, for as long as it takes to load them.

    Those that have no unsigned ones are given as they are.

    Raises:
        OSError: There is not enough memory for the copy, or a file cannot be read.
    """
    with ExitStack() as stack:
        yield {role: stack.enter_context(_signed(path)) for role, path in parts.items()}


@contextmanager
def _signed(path: Path) -> Iterator[Path]:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        graph = next(field for field in Message(data, 0, len(data)).entries() if field.number == _GRAPH)
        tensors = _tensors(graph)
        if not tensors:
            yield path
            return
        with os.fdopen(os.memfd_create(path.name), "wb") as copy:
            _write(data, graph, tensors, copy)
            copy.flush()
            yield Path(f"/proc/self/fd/{copy.fileno()}")


def _tensors(graph: Field) -> list[Field]:
    """The unsigned weights and zero points that only products use, each with its counterpart."""
    candidates: dict[str, Field] = {}
    pairs: list[tuple[str, str]] = []
    elsewhere: set[str] = set()
    for field, message in _messages(graph):
        if field.number == _INITIALIZER:
            if message.integer(_TENSOR_TYPE) == _UINT8 and not message.integer(_TENSOR_ELSEWHERE):
                candidates[message.text(_TENSOR_NAME)] = field
        elif field.number == _OUTPUT:
            elsewhere.add(message.text(1))
        elif field.number == _NODE:
            if next(message.messages(_NODE_ATTRIBUTE, _ATTRIBUTE_GRAPH), None) is not None:
                return []  # a branch or a loop, which may use anything
            inputs = [one.raw().decode() for one in message.messages(_NODE_INPUT)]
            if message.text(_NODE_TYPE) == _PRODUCT and len(inputs) > _ZERO_POINT:
                pairs.append((inputs.pop(_ZERO_POINT), inputs.pop(_WEIGHT)))
            elsewhere.update(inputs)
    changed = {name for pair in pairs for name in pair if name in candidates} - elsewhere
    while lonely := {name for pair in pairs for name in pair if not changed.issuperset(pair)} & changed:
        changed -= lonely
    return [candidates[name] for name in changed]


def _messages(graph: Field) -> Iterator[tuple[Field, Message]]:
    assert isinstance(graph.value, Message)
    for field in graph.value.entries():
        if isinstance(field.value, Message):
            yield field, field.value


@dataclass(frozen=True, slots=True)
class _Span:
    """Bytes of the file, as they are or with every sign flipped."""

    start: int
    end: int
    flips: bool = False

    def __len__(self) -> int:
        return self.end - self.start


def _write(data: mmap.mmap, graph: Field, tensors: list[Field], copy: BinaryIO) -> None:
    changed = {tensor.start for tensor in tensors}
    pieces: list[_Span | bytes] = []
    for field, message in _messages(graph):
        pieces += _tensor(message) if field.start in changed else [_Span(field.start, field.end)]
    pieces.insert(0, bytes_field(_GRAPH, sum(map(len, pieces))))
    for piece in (_Span(0, graph.start), *pieces, _Span(graph.end, len(data))):
        if isinstance(piece, bytes):
            copy.write(piece)
        else:
            part = data[piece.start : piece.end]
            copy.write(_flipped(part) if piece.flips else part)


def _tensor(message: Message) -> list[_Span | bytes]:
    """An initializer of signed numbers, as a field."""
    kept: list[_Span | bytes] = []
    numbers: list[_Span | bytes] = []
    for field in message.entries():
        if field.number == _TENSOR_RAW and isinstance(field.value, Message):
            numbers.append(_Span(field.value.start, field.value.end, flips=True))
        elif field.number == _TENSOR_NUMBERS:
            told = field.value.integers() if isinstance(field.value, Message) else [field.value]
            numbers.append(_flipped(bytes(told)))
        elif field.number != _TENSOR_TYPE:
            kept.append(_Span(field.start, field.end))
    raw = bytes_field(_TENSOR_RAW, sum(map(len, numbers)))
    content = [*kept, integer_field(_TENSOR_TYPE, _INT8), raw, *numbers]
    return [bytes_field(_INITIALIZER, sum(map(len, content))), *content]


def _flipped(numbers: bytes) -> bytes:
    return (np.frombuffer(numbers, np.uint8) ^ np.uint8(_SIGN)).tobytes()
