"""``Http2Call``: one gRPC call on one stream of a connection."""

import asyncio
from collections import deque
from collections.abc import Mapping
from typing import Protocol

import grpc

from perch import errors
from perch.asr.http2 import frames
from perch.asr.http2.frames import MAX_WINDOW, ErrorCode
from perch.asr.http2.headers import (
    is_informational,
    status_of_reset,
    status_of_response,
    status_of_trailers,
)
from perch.asr.http2.messages import PREFIX, BadMessages, MessageReader
from perch.riva.status import Status, error_from_status

STREAM_WINDOW = 256 << 10
"""Bytes the server may send on one stream before we give it more room."""
_MOST_UNREAD = 256 << 10
"""Bytes of messages nobody has read above which it is given none."""

_OK = Status(grpc.StatusCode.OK)
_CANCELLED = Status(grpc.StatusCode.CANCELLED, "the call was cancelled")


class CallEnded(Exception):
    """How a call ended, in the words of whoever ended it: the cause of the error a caller gets, for logs."""

    def __init__(self, status: Status) -> None:
        super().__init__(f"{status.code.name}: {status.details}")


class Carrier(Protocol):
    """A connection, as its calls see it."""

    window: int
    """Bytes the server still takes on the whole connection."""
    max_frame: int
    paused: bool
    """Whether the transport has enough to do."""
    blocked: set["Http2Call"]
    """Calls that wait until one of these has changed."""

    def send(self, frame: bytes) -> None:
        """Hand ``frame`` to the transport."""
        ...

    def forget(self, stream: int) -> None:
        """The call on ``stream`` is over."""
        ...


class Joins(Protocol):
    """What finds a connection for a call."""

    async def join(self, call: "Http2Call") -> None:
        """Have ``call`` opened by a connection with room for it."""
        ...


class Http2Call:
    """A call in progress. One task may write while another reads; ``cancel`` ends both.

    Nothing is done per message beyond the message itself: a write goes straight to the transport if flow
    control allows it, and a read takes what has arrived.
    """

    def __init__(self, joins: Joins, max_message_bytes: int, headers: bytes = b"") -> None:
        self.headers = headers
        """A block of headers that are this call's alone."""
        self.window = 0
        """Bytes the server still takes on this stream; below zero after it has lowered its limit."""
        self._joins = joins
        self._carrier: Carrier | None = None
        self._stream = 0
        self._status: Status | None = None
        self._half_closed = False
        self._answered = False
        self._decoder = MessageReader(max_message_bytes)
        self._messages: deque[bytes] = deque()
        self._unread = 0
        self._owed = 0
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None

    # --- what a caller does --------------------------------------------------------------------------

    async def connect(self) -> None:
        await self._joins.join(self)
        if self._carrier is None:
            raise _error(self._status or _CANCELLED)

    async def write(self, request: bytes) -> None:
        if not self.write_now(request):
            self._writable()
            await self._write_in_pieces(PREFIX.pack(0, len(request)) + request)

    def write_now(self, request: bytes) -> bool:
        carrier = self._carrier
        length = len(request) + PREFIX.size
        if (
            carrier is None
            or self._status is not None
            or self._half_closed
            or self._writer is not None
            or carrier.paused
            or length > self.window
            or length > carrier.window
            or length > carrier.max_frame
        ):
            return False
        self._send(carrier, PREFIX.pack(0, len(request)) + request)
        return True

    async def half_close(self) -> None:
        carrier = self._writable()
        self._half_closed = True
        carrier.send(frames.data(self._stream, b"", end=True))

    async def read(self) -> bytes | None:
        while not self._messages:
            if self._status is not None:
                if self._status.code is grpc.StatusCode.OK:
                    return None
                raise _error(self._status)
            self._reader = asyncio.get_running_loop().create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        message = self._messages.popleft()
        self._unread -= len(message)
        self._give_window()
        return message

    def cancel(self) -> None:
        self._messages.clear()
        self._end(_CANCELLED, ErrorCode.CANCEL)

    # --- what the connection does --------------------------------------------------------------------

    @property
    def is_over(self) -> bool:
        return self._status is not None

    def begin(self, carrier: Carrier, stream: int, window: int) -> None:
        """The call is now ``stream`` of ``carrier``, whose server takes ``window`` bytes on it."""
        self._carrier = carrier
        self._stream = stream
        self.window = window

    def receive_data(self, data: frames.Data) -> None:
        self._owed += data.flow
        if self._owed > STREAM_WINDOW:
            self._fail("the server ignored flow control", ErrorCode.FLOW_CONTROL_ERROR)
            return
        if not self._answered:
            self._fail("the server sent data before headers", ErrorCode.PROTOCOL_ERROR)
            return
        try:
            messages = self._decoder.receive(data.payload)
        except BadMessages as bad:
            self._end(bad.status, ErrorCode.CANCEL)
            return
        if messages:
            self._messages += messages
            self._unread += sum(map(len, messages))
            _wake(self._reader)
        if data.end:
            self._ended_by_server(
                Status(grpc.StatusCode.INTERNAL, "the server ended the call without trailers")
            )
        else:
            self._give_window()

    def receive_headers(self, fields: Mapping[bytes, bytes], *, end: bool) -> None:
        if end:
            status = status_of_trailers(fields)
            if status == _OK and self._decoder.incomplete:
                status = Status(grpc.StatusCode.INTERNAL, "the call ended inside a message")
            self._ended_by_server(status)
        elif self._answered:
            self._fail("the server sent headers twice", ErrorCode.PROTOCOL_ERROR)
        elif not is_informational(fields):
            self._answered = True
            if (problem := status_of_response(fields)) is not None:
                self._end(problem, ErrorCode.CANCEL)

    def receive_reset(self, code: int) -> None:
        self._end(status_of_reset(code), None)

    def receive_window(self, increment: int) -> None:
        self.window += increment
        if not increment or self.window > MAX_WINDOW:
            code = ErrorCode.FLOW_CONTROL_ERROR if increment else ErrorCode.PROTOCOL_ERROR
            self._fail("the server's window makes no sense", code)
        else:
            self.wake_writer()

    def lose(self, status: Status) -> None:
        """The connection can do no more for this call."""
        self._end(status, None)

    def wake_writer(self) -> None:
        _wake(self._writer)

    # --- inside --------------------------------------------------------------------------------------

    def _writable(self) -> Carrier:
        if self._status is not None or self._carrier is None or self._half_closed:
            raise errors.EngineUnavailable("The speech engine ended the stream.")
        return self._carrier

    def _send(self, carrier: Carrier, piece: bytes) -> None:
        self.window -= len(piece)
        carrier.window -= len(piece)
        carrier.send(frames.data(self._stream, piece))

    async def _write_in_pieces(self, message: bytes) -> None:
        sent = 0
        try:
            while sent < len(message):
                room = await self._room()
                self._send(self._writable(), message[sent : sent + room])
                sent = min(sent + room, len(message))
        finally:
            if 0 < sent < len(message):
                self.cancel()  # what follows half a message would be taken for the rest of it

    async def _room(self) -> int:
        """How much may be sent now, waiting until it is something."""
        while True:
            carrier = self._writable()
            room = min(self.window, carrier.window, carrier.max_frame)
            if room > 0 and not carrier.paused:
                return room
            self._writer = asyncio.get_running_loop().create_future()
            carrier.blocked.add(self)
            try:
                await self._writer
            finally:
                self._writer = None
                carrier.blocked.discard(self)

    def _give_window(self) -> None:
        """Let the server send more, in steps that are worth a frame, if somebody reads what it sends."""
        if self._owed >= STREAM_WINDOW // 2 and self._unread <= _MOST_UNREAD and self._status is None:
            assert self._carrier is not None
            self._carrier.send(frames.window_update(self._stream, self._owed))
            self._owed = 0

    def _ended_by_server(self, status: Status) -> None:
        self._end(status, None if self._half_closed else ErrorCode.NO_ERROR)

    def _fail(self, details: str, code: ErrorCode) -> None:
        self._end(Status(grpc.StatusCode.INTERNAL, details), code)

    def _end(self, status: Status, reset: ErrorCode | None) -> None:
        if self._status is not None:
            return
        self._status = status
        if self._carrier is not None:
            if reset is not None:
                self._carrier.send(frames.reset(self._stream, reset))
            self._carrier.forget(self._stream)
        _wake(self._reader)
        _wake(self._writer)


def _error(status: Status) -> errors.PerchError:
    error = error_from_status(status)
    error.__cause__ = CallEnded(status)
    return error


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)
