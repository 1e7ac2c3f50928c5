"""Protobuf messages read where they lie, without their schema: every field says how long it is.

For files of which some kilobytes matter and hundreds of megabytes do not.
"""

import mmap
from collections.abc import Iterator
from dataclasses import dataclass

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a message: its number, what it holds, and where it lies, key and all."""

    number: int
    value: "Message | int"
    """Bytes as a message, whatever they are; 0 for numbers of fixed width, which nobody here asks for."""
    start: int
    end: int


class Message:
    """A protobuf message in ``data[start:end]``."""

    def __init__(self, data: mmap.mmap | bytes, start: int, end: int) -> None:
        self._data = data
        self.start = start
        self.end = end

    def entries(self) -> Iterator[Field]:
        """Each field, in order.

        Raises:
            ValueError: This is not a message.
            IndexError: It ends too early.
        """
        at = self.start
        while at < self.end:
            start = at
            key, at = self._varint(at)
            number, kind = key >> 3, key & 7
            value: Message | int = 0
            if kind == _VARINT:
                value, at = self._varint(at)
            elif kind == _BYTES:
                length, at = self._varint(at)
                value = Message(self._data, at, at + length)
                at += length
            elif kind in {_FIXED64, _FIXED32}:
                at += 8 if kind == _FIXED64 else 4
            else:
                raise ValueError(f"wire type {kind}")
            yield Field(number, value, start, at)
        if at != self.end:
            raise IndexError("cut off")

    def fields(self) -> Iterator[tuple[int, "Message | int"]]:
        """Each field's number and value."""
        for field in self.entries():
            yield field.number, field.value

    def messages(self, *path: int) -> Iterator["Message"]:
        """The messages at a path of field numbers."""
        for number, value in self.fields():
            if number == path[0] and isinstance(value, Message):
                yield from value.messages(*path[1:]) if path[1:] else (value,)

    def integer(self, number: int) -> int | None:
        return next((v for n, v in self.fields() if n == number and isinstance(v, int)), None)

    def integers(self) -> Iterator[int]:
        """The numbers of a packed field, of which this is the content."""
        at = self.start
        while at < self.end:
            value, at = self._varint(at)
            yield value

    def text(self, number: int) -> str:
        return next((m.raw().decode() for m in self.messages(number)), "")

    def raw(self) -> bytes:
        return self._data[self.start : self.end]

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


def bytes_field(number: int, length: int) -> bytes:
    """What stands in front of ``length`` bytes as a field."""
    return varint(number << 3 | _BYTES) + varint(length)


def integer_field(number: int, value: int) -> bytes:
    return varint(number << 3 | _VARINT) + varint(value)


def varint(value: int) -> bytes:
    """Of a number that is not negative."""
    made = bytearray()
    while value >= 0x80:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    made.append(value)
    return bytes(made)
