"""gRPC messages in the bytes of a stream: a flag, a length, the message. No I/O."""

import struct

import grpc

from perch.riva.status import Status

PREFIX = struct.Struct(">BL")
_PREFIX_SIZE = PREFIX.size


class BadMessages(Exception):
    """What the server sends is not a message we can take."""

    def __init__(self, status: Status) -> None:
        super().__init__(status.details)
        self.status = status


class MessageReader:
    """Messages of at most ``max_bytes`` from data cut anywhere."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._begun = bytearray()
        self._needed = _PREFIX_SIZE

    @property
    def incomplete(self) -> bool:
        """Whether the data so far ends inside a message."""
        return bool(self._begun)

    def receive(self, data: bytes) -> list[bytes]:
        """The messages ``data`` completes.

        Raises:
            BadMessages: One is too large or compressed.
        """
        if not self._begun and len(data) >= _PREFIX_SIZE and self._size(data) == len(data) - _PREFIX_SIZE:
            return [data[_PREFIX_SIZE:]]  # nearly always: one frame, one message
        self._begun += data
        return self._completed() if len(self._begun) >= self._needed else []

    def _completed(self) -> list[bytes]:
        messages = []
        begun, position = self._begun, 0
        while len(begun) - position >= _PREFIX_SIZE:
            end = position + _PREFIX_SIZE + self._size(begun, position)
            if end > len(begun):
                break
            messages.append(bytes(memoryview(begun)[position + _PREFIX_SIZE : end]))
            position = end
        del begun[:position]
        self._needed = _PREFIX_SIZE
        if len(begun) >= _PREFIX_SIZE:
            self._needed += self._size(begun)
        return messages

    def _size(self, data: bytes | bytearray, position: int = 0) -> int:
        flag, size = PREFIX.unpack_from(data, position)
        if flag:
            raise BadMessages(
                Status(grpc.StatusCode.INTERNAL, "a compressed message, which was not asked for")
            )
        if size > self._max_bytes:
            details = f"a message of {size} bytes; the limit is {self._max_bytes}"
            raise BadMessages(Status(grpc.StatusCode.RESOURCE_EXHAUSTED, details))
        return int(size)
