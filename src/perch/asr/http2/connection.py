"""``Http2Connection``: one connection to a gRPC server, and the calls on it."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import assert_never, cast

import grpc

from perch import errors
from perch.asr.http2 import frames
from perch.asr.http2.call import STREAM_WINDOW, CallEnded, Http2Call
from perch.asr.http2.dial import Target, dial
from perch.asr.http2.frames import MAX_WINDOW, ConnectionViolation, ErrorCode, FrameParser, Setting
from perch.asr.http2.headers import HeaderDecoder
from perch.asr.http2.keepalive import Keepalive, KeepaliveConfig
from perch.riva.status import Status, error_from_status

_CONNECTION_WINDOW = 16 << 20
"""Bytes the server may have on its way on all streams. It is given back at once: the streams' own bound memory."""
_DEFAULT_WINDOW = 65_535
_DEFAULT_FRAME = 16_384
_LARGEST_FRAME = 65_536
"""The largest we send, whatever the server allows: while one is sent, no other stream's can be."""
_CONNECT_S = 20.0
_CLOSE_S = 1.0
_MOST_UNSENT = 4 << 20

_OPENING = (
    frames.PREFACE
    + frames.settings(
        {
            Setting.ENABLE_PUSH: 0,
            Setting.INITIAL_WINDOW_SIZE: STREAM_WINDOW,
            Setting.MAX_HEADER_LIST_SIZE: frames.MAX_HEADER_BLOCK,
        }
    )
    + frames.window_update(0, _CONNECTION_WINDOW - _DEFAULT_WINDOW)
)


@dataclass(frozen=True, slots=True)
class ConnectionConfig:
    """Bounds of a connection."""

    max_streams: int = 80
    """Calls at the same time; the server's own limit may be lower."""
    keepalive: KeepaliveConfig = field(default_factory=KeepaliveConfig)


class Http2Connection(asyncio.Protocol):
    """Connects on creation. Lives until the server, ``aclose`` or the last one who wanted it lets it go."""

    def __init__(self, target: Target, block: bytes, config: ConnectionConfig) -> None:
        self.window = _DEFAULT_WINDOW
        self.max_frame = _DEFAULT_FRAME
        self.paused = False
        self.blocked: set[Http2Call] = set()
        self.server_max_streams: int | None = None
        """What the server said, once it has."""
        self._block = block
        self._config = config
        self._calls: dict[int, Http2Call] = {}
        self._reserved = 0
        self._next_stream = 1
        self._initial_window = _DEFAULT_WINDOW
        self._received = 0
        self._parser = FrameParser()
        self._decoder = HeaderDecoder()
        self._transport: asyncio.Transport | None = None
        self._settled = asyncio.Event()
        self._closed = asyncio.Event()
        self._going_away = False
        self._lost: Status | None = None
        self._closing: asyncio.TimerHandle | None = None
        self._keepalive = Keepalive(
            config.keepalive,
            is_needed=lambda: bool(self._calls),
            ping=lambda: self._answer(frames.PING),
            give_up=lambda: self._lose("the server stopped answering"),
        )
        self._dialling = asyncio.create_task(self._dial(target), name="http2-dial")

    # --- for those who look for a connection ---------------------------------------------------------

    @property
    def streams(self) -> int:
        """Calls on this connection, those about to begin included."""
        return len(self._calls) + self._reserved

    @property
    def is_over(self) -> bool:
        """Whether no call can begin on it any more."""
        return self._going_away or self._lost is not None

    @contextmanager
    def reserved(self) -> Iterator[None]:
        """Count one more stream while the block runs. A connection nobody waits for any more is not made."""
        self._reserved += 1
        try:
            yield
        finally:
            self._reserved -= 1
            if not self._settled.is_set() and not self._reserved:
                self._lose("nobody waits for the connection")

    async def ready(self) -> None:
        """Wait until the server has said what it allows.

        Raises:
            PerchError: The server cannot be reached.
        """
        await self._settled.wait()
        if self._lost is not None:
            raise error_from_status(self._lost) from CallEnded(self._lost)

    def open(self, call: Http2Call) -> bool:
        """Begin ``call``, if there is room for it."""
        limit = self._config.max_streams
        if self.server_max_streams is not None:
            limit = min(limit, self.server_max_streams)
        if call.is_over or self.is_over or len(self._calls) >= limit:
            return False
        stream = self._next_stream
        self._next_stream += 2
        self._going_away = self._next_stream > frames.LAST_STREAM
        self._calls[stream] = call
        call.begin(self, stream, self._initial_window)
        self.send(frames.headers(stream, self._block + call.headers))
        return True

    async def aclose(self) -> None:
        """End every call and the connection."""
        self._fail(ErrorCode.NO_ERROR, "the connection was closed")
        await asyncio.wait([self._dialling])
        await self._closed.wait()

    # --- for the calls -------------------------------------------------------------------------------

    def send(self, frame: bytes) -> None:
        self._keepalive.pings = 0
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(frame)

    def forget(self, stream: int) -> None:
        self._calls.pop(stream, None)
        if self._going_away and not self._calls:
            self._fail(ErrorCode.NO_ERROR, "the server is going away")

    # --- for the transport ---------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # No isinstance: uvloop's are no subclass of asyncio's.
        self._transport = writable = cast("asyncio.Transport", transport)
        if self._lost is not None:
            writable.abort()
            return
        secured = transport.get_extra_info("ssl_object")
        if secured is not None and secured.selected_alpn_protocol() != "h2":
            self._lose("the server does not speak HTTP/2")
            return
        writable.write(_OPENING)
        self._keepalive.start()

    def data_received(self, data: bytes) -> None:
        self._keepalive.heard = True
        try:
            for frame in self._parser.receive(data):
                if self._lost is not None:
                    return
                self._receive(frame)
        except ConnectionViolation as violation:
            self._fail(violation.code, f"the server broke HTTP/2: {violation}")

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        self._wake_writers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lose("the connection was lost" if exc is None else f"the connection was lost ({exc})")
        if self._closing is not None:
            self._closing.cancel()
        self._closed.set()

    # --- frames --------------------------------------------------------------------------------------

    def _receive(self, frame: frames.Frame) -> None:
        match frame:
            case frames.Data():
                self._receive_data(frame)
            case frames.WindowUpdate():
                self._receive_window(frame)
            case frames.Headers():
                fields = self._decoder.decode(frame.block)
                if (call := self._call(frame.stream)) is not None:
                    call.receive_headers(fields, end=frame.end)
            case frames.Reset():
                if (call := self._call(frame.stream)) is not None:
                    call.receive_reset(frame.code)
            case _:
                self._receive_control(frame)

    def _receive_control(self, frame: frames.ControlFrame) -> None:
        """Frames of the connection as a whole, its settings being the first."""
        if not self._settled.is_set() and not isinstance(frame, frames.Settings):
            raise ConnectionViolation(ErrorCode.PROTOCOL_ERROR, "it did not begin with its settings")
        match frame:
            case frames.Ping():
                self._answer(frames.ping_ack(frame.payload))
            case frames.Settings():
                self._receive_settings(frame)
            case frames.GoAway():
                self._receive_goaway(frame)
            case frames.PingAck() | frames.SettingsAck():
                pass  # to have been heard is all that it is for
            case _:
                assert_never(frame)

    def _receive_data(self, data: frames.Data) -> None:
        call = self._call(data.stream)
        self._received += data.flow
        if self._received >= _CONNECTION_WINDOW // 2:
            self._answer(frames.window_update(0, self._received))
            self._received = 0
        if call is not None:
            call.receive_data(data)

    def _receive_window(self, update: frames.WindowUpdate) -> None:
        if update.stream:
            if (call := self._call(update.stream)) is not None:
                call.receive_window(update.increment)
            return
        self.window += update.increment
        if not update.increment or self.window > MAX_WINDOW:
            raise ConnectionViolation(ErrorCode.FLOW_CONTROL_ERROR, "window out of range")
        self._wake_writers()

    def _receive_settings(self, settings: frames.Settings) -> None:
        for name, value in settings.values:
            if name == Setting.MAX_CONCURRENT_STREAMS:
                self.server_max_streams = value
            elif name == Setting.INITIAL_WINDOW_SIZE:
                self._set_initial_window(value)
            elif name == Setting.MAX_FRAME_SIZE:
                if not _DEFAULT_FRAME <= value < 1 << 24:
                    raise ConnectionViolation(ErrorCode.PROTOCOL_ERROR, "frame size out of range")
                self.max_frame = min(value, _LARGEST_FRAME)
        self._answer(frames.SETTINGS_ACK)
        self._settled.set()
        self._wake_writers()

    def _set_initial_window(self, value: int) -> None:
        """The new size is for streams that exist, too; what they have left may then be less than nothing."""
        if value > MAX_WINDOW:
            raise ConnectionViolation(ErrorCode.FLOW_CONTROL_ERROR, "window out of range")
        change, self._initial_window = value - self._initial_window, value
        for call in self._calls.values():
            call.window += change
            if call.window > MAX_WINDOW:
                raise ConnectionViolation(ErrorCode.FLOW_CONTROL_ERROR, "window out of range")

    def _receive_goaway(self, goaway: frames.GoAway) -> None:
        """Calls the server has seen may go on; the others never began."""
        self._going_away = True
        refused = Status(grpc.StatusCode.UNAVAILABLE, f"the server is going away ({goaway.code})")
        for stream, call in tuple(self._calls.items()):
            if stream > goaway.last_stream:
                call.lose(refused)
        if not self._calls:
            self._fail(ErrorCode.NO_ERROR, "the server is going away")

    def _call(self, stream: int) -> Http2Call | None:
        """The call on ``stream``, or None if it is over.

        Raises:
            ConnectionViolation: There never was one.
        """
        if stream >= self._next_stream or not stream % 2:
            raise ConnectionViolation(ErrorCode.PROTOCOL_ERROR, "frame on a stream that was never opened")
        return self._calls.get(stream)

    # --- inside --------------------------------------------------------------------------------------

    async def _dial(self, target: Target) -> None:
        try:
            async with asyncio.timeout(_CONNECT_S):
                await dial(target, self)
                await self._settled.wait()
        except errors.EngineUnavailable as error:
            self._lose(error.message)
        except TimeoutError:
            self._lose("the server did not answer in time")

    def _answer(self, frame: bytes) -> None:
        """Send what a frame of the server's calls for, unless it only asks and never reads."""
        assert self._transport is not None
        if self._transport.get_write_buffer_size() > _MOST_UNSENT:
            raise ConnectionViolation(ErrorCode.ENHANCE_YOUR_CALM, "it asks and does not read the answers")
        self._transport.write(frame)

    def _wake_writers(self) -> None:
        for call in self.blocked:
            call.wake_writer()

    def _fail(self, code: ErrorCode, reason: str) -> None:
        """Say goodbye and lose the connection."""
        if self._lost is None and self._transport is not None:
            self._transport.write(frames.goaway(code))
            self._transport.close()
            self._closing = asyncio.get_running_loop().call_later(_CLOSE_S, self._transport.abort)
        self._lose(reason)

    def _lose(self, reason: str) -> None:
        """The connection is over, and every call with it."""
        if self._lost is not None:
            return
        self._lost = Status(grpc.StatusCode.UNAVAILABLE, reason)
        self._keepalive.stop()
        self._settled.set()
        for call in tuple(self._calls.values()):
            call.lose(self._lost)
        if self._transport is None:
            self._dialling.cancel()
            self._closed.set()
        elif not self._transport.is_closing():
            self._transport.abort()
