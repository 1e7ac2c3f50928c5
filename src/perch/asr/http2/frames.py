"""HTTP/2 frames (RFC 9113, sections 4 and 6) as values: bytes in, frames out, and the reverse. No I/O.

What a client of gRPC has no use for (priorities, extensions) is checked for its size and skipped; padding is
removed, and a header block that comes in several frames is given as one.
"""

import struct
from collections.abc import Iterator, Mapping
from enum import IntEnum
from typing import NamedTuple

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
MAX_FRAME = 16_384
"""Largest payload we accept: the smallest limit a receiver may set, and what it is if nothing is said."""
MAX_WINDOW = (1 << 31) - 1
MAX_HEADER_BLOCK = 65_536
LAST_STREAM = (1 << 31) - 1

_HEADER = struct.Struct(">HBBBL")  # length (its upper 16 and lower 8 bits), type, flags, stream
_HEADER_SIZE = _HEADER.size
_SETTING = struct.Struct(">HL")
_NUMBER = struct.Struct(">L")
_TWO_NUMBERS = struct.Struct(">LL")

_DATA, _HEADERS, _PRIORITY, _RST_STREAM, _SETTINGS = 0, 1, 2, 3, 4
_PUSH_PROMISE, _PING, _GOAWAY, _WINDOW_UPDATE, _CONTINUATION = 5, 6, 7, 8, 9
_END_STREAM = _ACK = 0x1
_END_HEADERS = 0x4
_PADDED = 0x8
_WITH_PRIORITY = 0x20
_SIZES = {_PRIORITY: 5, _RST_STREAM: 4, _PING: 8, _WINDOW_UPDATE: 4}
_OF_STREAMS = {_DATA, _HEADERS, _PRIORITY, _RST_STREAM, _CONTINUATION}
_OF_CONNECTION = {_SETTINGS, _PING, _GOAWAY}


class ErrorCode(IntEnum):
    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11
    INADEQUATE_SECURITY = 12
    HTTP_1_1_REQUIRED = 13


class Setting(IntEnum):
    HEADER_TABLE_SIZE = 1
    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6


class ConnectionViolation(Exception):
    """The peer broke the protocol so that the whole connection is lost."""

    def __init__(self, code: ErrorCode, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class Data(NamedTuple):
    stream: int
    payload: bytes
    flow: int
    """What the frame takes from the windows: its payload and its padding."""
    end: bool


class Headers(NamedTuple):
    stream: int
    block: bytes
    end: bool


class Reset(NamedTuple):
    stream: int
    code: int


class Settings(NamedTuple):
    values: tuple[tuple[int, int], ...]


class SettingsAck(NamedTuple):
    pass


class Ping(NamedTuple):
    payload: bytes


class PingAck(NamedTuple):
    payload: bytes


class GoAway(NamedTuple):
    last_stream: int
    code: int


class WindowUpdate(NamedTuple):
    stream: int
    """0 for the whole connection."""
    increment: int


ControlFrame = Settings | SettingsAck | Ping | PingAck | GoAway
Frame = Data | Headers | Reset | WindowUpdate | ControlFrame


class FrameParser:
    """Frames of a stream of bytes that comes in pieces of any size."""

    def __init__(self) -> None:
        self._rest = b""
        self._unfinished: Headers | None = None

    def receive(self, data: bytes) -> Iterator[Frame]:
        """The frames ``data`` completes, in order.

        Raises:
            ConnectionViolation: After the last good frame; the parser is of no use any more.
        """
        if self._rest:
            data = self._rest + data
        position, size = 0, len(data)
        while size - position >= _HEADER_SIZE:
            upper, lower, kind, flags, stream = _HEADER.unpack_from(data, position)
            length = upper << 8 | lower
            if length > MAX_FRAME:
                raise ConnectionViolation(ErrorCode.FRAME_SIZE_ERROR, "frame above the limit")
            end = position + _HEADER_SIZE + length
            if end > size:
                break
            payload = data[position + _HEADER_SIZE : end]
            position = end
            if (frame := self._frame(kind, flags, stream & LAST_STREAM, payload)) is not None:
                yield frame
        self._rest = data[position:]

    def _frame(self, kind: int, flags: int, stream: int, payload: bytes) -> Frame | None:
        if kind == _DATA and stream and self._unfinished is None:
            content = _unpadded(payload) if flags & _PADDED else payload
            return Data(stream, content, len(payload), bool(flags & _END_STREAM))
        self._check(kind, stream, len(payload))
        if kind == _HEADERS:
            return self._headers(flags, stream, payload)
        if kind == _CONTINUATION:
            return self._continuation(flags, payload)
        return _control(kind, flags, stream, payload)

    def _check(self, kind: int, stream: int, length: int) -> None:
        if (kind == _CONTINUATION) != (self._unfinished is not None):
            raise ConnectionViolation(ErrorCode.PROTOCOL_ERROR, "header block interrupted or not begun")
        if self._unfinished is not None and self._unfinished.stream != stream:
            raise ConnectionViolation(ErrorCode.PROTOCOL_ERROR, "header block continued on another stream")
        if (kind in _OF_STREAMS and not stream) or (kind in _OF_CONNECTION and stream):
            raise ConnectionViolation(ErrorCode.PROTOCOL_ERROR, "frame on a stream it does not belong to")
        if kind in _SIZES and length != _SIZES[kind]:
            raise ConnectionViolation(ErrorCode.FRAME_SIZE_ERROR, "frame of the wrong size")
        if kind == _PUSH_PROMISE:
            raise ConnectionViolation(ErrorCode.PROTOCOL_ERROR, "push, which we do not allow")

    def _headers(self, flags: int, stream: int, payload: bytes) -> Headers | None:
        block = _unpadded(payload) if flags & _PADDED else payload
        if flags & _WITH_PRIORITY:
            if len(block) < _SIZES[_PRIORITY]:
                raise ConnectionViolation(ErrorCode.FRAME_SIZE_ERROR, "no room for the priority")
            block = block[_SIZES[_PRIORITY] :]
        return self._whole(flags, Headers(stream, block, bool(flags & _END_STREAM)))

    def _continuation(self, flags: int, payload: bytes) -> Headers | None:
        assert self._unfinished is not None
        begun, self._unfinished = self._unfinished, None
        if not payload and not flags & _END_HEADERS:
            raise ConnectionViolation(ErrorCode.ENHANCE_YOUR_CALM, "continuation of nothing by nothing")
        return self._whole(flags, begun._replace(block=begun.block + payload))

    def _whole(self, flags: int, headers: Headers) -> Headers | None:
        if len(headers.block) > MAX_HEADER_BLOCK:
            raise ConnectionViolation(ErrorCode.ENHANCE_YOUR_CALM, "header block above the limit")
        if flags & _END_HEADERS:
            return headers
        self._unfinished = headers
        return None


def _control(kind: int, flags: int, stream: int, payload: bytes) -> Frame | None:
    """The frames that carry neither data nor headers; None for those that mean nothing to us."""
    if kind == _WINDOW_UPDATE:
        return WindowUpdate(stream, _NUMBER.unpack(payload)[0] & MAX_WINDOW)
    if kind == _PING:
        return PingAck(payload) if flags & _ACK else Ping(payload)
    if kind == _SETTINGS:
        return _settings(flags, payload)
    if kind == _RST_STREAM:
        return Reset(stream, _NUMBER.unpack(payload)[0])
    if kind == _GOAWAY:
        if len(payload) < _TWO_NUMBERS.size:
            raise ConnectionViolation(ErrorCode.FRAME_SIZE_ERROR, "frame of the wrong size")
        last, code = _TWO_NUMBERS.unpack_from(payload)
        return GoAway(last & LAST_STREAM, code)
    return None


def _settings(flags: int, payload: bytes) -> Settings | SettingsAck:
    if len(payload) % _SETTING.size or (flags & _ACK and payload):
        raise ConnectionViolation(ErrorCode.FRAME_SIZE_ERROR, "settings of the wrong size")
    return SettingsAck() if flags & _ACK else Settings(tuple(_SETTING.iter_unpack(payload)))


def _unpadded(payload: bytes) -> bytes:
    if not payload or payload[0] >= len(payload):
        raise ConnectionViolation(ErrorCode.PROTOCOL_ERROR, "more padding than frame")
    return payload[1 : len(payload) - payload[0]]


# --- what we send ------------------------------------------------------------------------------------------


def _encoded(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    length = len(payload)
    return _HEADER.pack(length >> 8, length & 0xFF, kind, flags, stream) + payload


def data(stream: int, payload: bytes, *, end: bool = False) -> bytes:
    return _encoded(_DATA, _END_STREAM if end else 0, stream, payload)


def headers(stream: int, block: bytes) -> bytes:
    """A header block that begins a stream, in as many frames as it needs."""
    first, rest = block[:MAX_FRAME], block[MAX_FRAME:]
    frames = [_encoded(_HEADERS, 0 if rest else _END_HEADERS, stream, first)]
    while rest:
        piece, rest = rest[:MAX_FRAME], rest[MAX_FRAME:]
        frames.append(_encoded(_CONTINUATION, 0 if rest else _END_HEADERS, stream, piece))
    return b"".join(frames)


def reset(stream: int, code: ErrorCode) -> bytes:
    return _encoded(_RST_STREAM, 0, stream, _NUMBER.pack(code))


def settings(values: Mapping[Setting, int]) -> bytes:
    return _encoded(_SETTINGS, 0, 0, b"".join(_SETTING.pack(*item) for item in values.items()))


SETTINGS_ACK = _encoded(_SETTINGS, _ACK, 0, b"")
PING = _encoded(_PING, 0, 0, bytes(8))


def ping_ack(payload: bytes) -> bytes:
    return _encoded(_PING, _ACK, 0, payload)


def window_update(stream: int, increment: int) -> bytes:
    return _encoded(_WINDOW_UPDATE, 0, stream, _NUMBER.pack(increment))


def goaway(code: ErrorCode) -> bytes:
    """We accept no streams of the server's, so the last one we saw is always 0."""
    return _encoded(_GOAWAY, 0, 0, _TWO_NUMBERS.pack(0, code))
