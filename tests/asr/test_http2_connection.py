"""The HTTP/2 client against a server that says, byte for byte, what a test tells it to."""

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

import hpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.test_http2_grpc import calling, read_all
from perch import errors
from perch.asr.http2 import frames
from perch.asr.http2.call import STREAM_WINDOW, Http2Call
from perch.asr.http2.frames import PREFACE, ErrorCode, Frame, FrameParser, Setting
from perch.asr.http2.messages import PREFIX
from raw_frames import raw

OK = [(":status", "200"), ("content-type", "application/grpc")]
F = TypeVar("F", bound=Frame)
DONE = [("grpc-status", "0")]


class Peer:
    """The server's end of one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._parser = FrameParser()
        self._frames: list[Frame] = []
        self._encoder = hpack.Encoder()

    async def greet(self, **values: int) -> None:
        """Take the preface and send the settings."""
        assert await self._reader.readexactly(len(PREFACE)) == PREFACE
        self.send(frames.settings({Setting[name]: value for name, value in values.items()}))

    def send(self, *data: bytes) -> None:
        self._writer.write(b"".join(data))

    def headers(self, stream: int, fields: list[tuple[str, str]], *, end: bool = False) -> bytes:
        return raw(1, 0x5 if end else 0x4, stream, self._encoder.encode(fields))

    def answer(self, stream: int, *messages: bytes) -> None:
        """Headers and messages."""
        self.send(self.headers(stream, OK))
        for message in messages:
            self.send(frames.data(stream, PREFIX.pack(0, len(message)) + message))

    async def next(self, kind: type[F]) -> F:
        """The next frame of ``kind``; others are passed over."""
        async with asyncio.timeout(30):
            while True:
                while self._frames:
                    if isinstance(frame := self._frames.pop(0), kind):
                        return frame
                data = await self._reader.read(65_536)
                assert data, f"the client hung up before its {kind.__name__}"
                self._frames += self._parser.receive(data)

    async def hung_up(self) -> None:
        async with asyncio.timeout(30):
            with suppress(ConnectionError):
                while await self._reader.read(65_536):
                    pass

    def close(self) -> None:
        """Hang up once everything is sent."""
        self._writer.close()

    def hang_up(self) -> None:
        self._writer.transport.abort()


class Listener:
    """Connections as they come."""

    def __init__(self) -> None:
        self.address = ""
        self._peers: asyncio.Queue[Peer] = asyncio.Queue(10)
        self.all: list[Peer] = []

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(reader, writer)
        self.all.append(peer)
        await self._peers.put(peer)

    async def peer(self, **values: int) -> Peer:
        async with asyncio.timeout(30):
            peer = await self._peers.get()
            await peer.greet(**values)
            return peer


@asynccontextmanager
async def listening() -> AsyncIterator[Listener]:
    listener = Listener()
    server = await asyncio.start_server(listener.accept, "127.0.0.1", 0)
    listener.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield listener
    finally:
        for peer in listener.all:
            peer.hang_up()
        server.close()
        await server.wait_closed()


@asynccontextmanager
async def conversing(**values: int) -> AsyncIterator[tuple[Http2Call, Peer]]:
    """A connected call on stream 1 and the server's end of its connection, which has sent ``values``."""
    async with listening() as listener, calling(listener.address) as calls:
        with calls.call() as call:
            _, peer = await asyncio.gather(call.connect(), listener.peer(**values))
            assert (await peer.next(frames.Headers)).stream == 1
            yield call, peer


async def failure(call: Http2Call) -> errors.PerchError:
    async with asyncio.timeout(30):
        with pytest.raises(errors.PerchError) as failed:
            await read_all(call)
    return failed.value


async def test_it_acknowledges_settings_and_pings() -> None:
    async with conversing() as (_, peer):
        peer.send(raw(6, 0, 0, b"12345678"))
        assert (await peer.next(frames.PingAck)).payload == b"12345678"
        peer.send(frames.settings({Setting.HEADER_TABLE_SIZE: 0}))
        await peer.next(frames.SettingsAck)


async def test_a_call_is_a_whole_http2_exchange() -> None:
    async with conversing() as (call, peer):
        await call.write(b"hello")
        assert (await peer.next(frames.Data)).payload == PREFIX.pack(0, 5) + b"hello"
        await call.half_close()
        assert (await peer.next(frames.Data)).end
        peer.send(peer.headers(1, [(":status", "103")]))
        peer.answer(1, b"one", b"two")
        peer.send(peer.headers(1, DONE, end=True))
        assert [await call.read() for _ in range(4)] == [b"one", b"two", None, None]


async def test_several_messages_in_a_frame_and_a_message_in_several_frames() -> None:
    async with conversing() as (call, peer):
        two = PREFIX.pack(0, 1) + b"a" + PREFIX.pack(0, 4) + b"bc"
        peer.answer(1)
        peer.send(frames.data(1, two), frames.data(1, b"d"), frames.data(1, b""), raw(0, 8, 1, b"\x01e\0"))
        assert [await call.read(), await call.read()] == [b"a", b"bcde"]


async def test_a_write_waits_for_the_streams_window_and_uses_it_to_the_byte() -> None:
    async with conversing(INITIAL_WINDOW_SIZE=10) as (call, peer):
        writing = asyncio.create_task(call.write(bytes(20)))
        assert len((await peer.next(frames.Data)).payload) == 10
        peer.send(frames.window_update(1, 3))
        assert len((await peer.next(frames.Data)).payload) == 3
        assert not writing.done()
        peer.send(frames.window_update(1, 100))
        assert len((await peer.next(frames.Data)).payload) == 12
        await writing


async def test_a_lowered_window_may_be_negative_until_it_is_made_up_for() -> None:
    async with conversing(INITIAL_WINDOW_SIZE=100) as (call, peer):
        await call.write(bytes(55))
        await peer.next(frames.Data)
        peer.send(frames.settings({Setting.INITIAL_WINDOW_SIZE: 20}))  # 40 left of 100, now -40 of 20
        await peer.next(frames.SettingsAck)
        writing = asyncio.create_task(call.write(b""))
        peer.send(frames.window_update(1, 40), frames.PING)
        await peer.next(frames.PingAck)
        assert not writing.done()
        peer.send(frames.window_update(1, 5))
        assert (await peer.next(frames.Data)).flow == 5
        await writing


async def test_a_write_waits_for_the_connections_window() -> None:
    async with conversing(INITIAL_WINDOW_SIZE=1 << 20) as (call, peer):
        writing = asyncio.create_task(call.write(bytes(65_535)))
        assert (await peer.next(frames.Data)).flow <= frames.MAX_FRAME
        received = 16_384
        while received < 65_535:
            received += (await peer.next(frames.Data)).flow
        assert not writing.done()
        peer.send(frames.window_update(0, 5))
        assert (await peer.next(frames.Data)).flow == 5
        await writing


async def test_a_cancelled_write_leaves_no_half_message_behind() -> None:
    async with conversing(INITIAL_WINDOW_SIZE=10) as (call, peer):
        writing = asyncio.create_task(call.write(bytes(20)))
        await peer.next(frames.Data)
        writing.cancel()
        assert (await peer.next(frames.Reset)).code == ErrorCode.CANCEL
        with pytest.raises(errors.EngineUnavailable):
            await call.write(b"more")


async def test_window_is_given_back_in_steps_and_only_while_somebody_reads() -> None:
    async with conversing() as (call, peer):
        peer.answer(1)
        message = PREFIX.pack(0, 16_379) + bytes(16_379)
        for _ in range(STREAM_WINDOW // 2 // len(message)):
            peer.send(frames.data(1, message))
        while (update := await peer.next(frames.WindowUpdate)).stream == 0:
            pass
        assert update.increment == STREAM_WINDOW // 2
        for _ in range(STREAM_WINDOW // len(message)):
            peer.send(frames.data(1, message))
        peer.send(frames.PING)
        await peer.next(frames.PingAck)
        for _ in range(24):
            assert await call.read() is not None
        assert (await peer.next(frames.WindowUpdate)).stream == 1


async def test_a_server_that_ignores_flow_control_loses_the_stream() -> None:
    async with conversing() as (call, peer):
        peer.answer(1)
        for _ in range(2 + 2 * STREAM_WINDOW // 16_384):
            peer.send(frames.data(1, PREFIX.pack(0, 16_379) + bytes(16_379)))
        assert (await peer.next(frames.Reset)).code == ErrorCode.FLOW_CONTROL_ERROR
        assert isinstance(await failure(call), errors.EngineFailed)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (7, errors.EngineUnavailable),
        (11, errors.EngineFull),
        (2, errors.EngineFailed),
        (8, errors.EngineFailed),
    ],
)
async def test_a_reset_ends_the_call_with_its_meaning(code: int, kind: type[errors.PerchError]) -> None:
    async with conversing() as (call, peer):
        peer.answer(1, b"one")
        peer.send(raw(3, 0, 1, struct.pack(">L", code)))
        assert await call.read() == b"one"
        assert isinstance(await failure(call), kind)


async def test_goaway_ends_what_the_server_never_saw_and_lets_the_rest_finish() -> None:
    async with listening() as listener, calling(listener.address) as calls:
        with calls.call() as seen, calls.call() as unseen, calls.call() as later:
            _, peer = await asyncio.gather(seen.connect(), listener.peer())
            await unseen.connect()
            peer.send(raw(7, 0, 0, struct.pack(">LL", 1, 0)))
            assert isinstance(await failure(unseen), errors.EngineUnavailable)
            await asyncio.gather(later.connect(), listener.peer())
            assert calls.streams == [1, 1]
            peer.answer(1, b"done")
            peer.send(peer.headers(1, DONE, end=True))
            assert [await seen.read(), await seen.read()] == [b"done", None]
            await peer.hung_up()
            assert not later.is_over


async def test_a_lost_connection_is_the_end_of_all_its_calls() -> None:
    async with listening() as listener, calling(listener.address) as calls:
        with calls.call() as reading, calls.call() as writing:
            _, peer = await asyncio.gather(reading.connect(), listener.peer(INITIAL_WINDOW_SIZE=0))
            await writing.connect()
            blocked = asyncio.create_task(writing.write(b"x"))
            await asyncio.sleep(0)
            peer.hang_up()
            assert isinstance(await failure(reading), errors.EngineUnavailable)
            with pytest.raises(errors.EngineUnavailable):
                await blocked


async def test_a_server_that_does_not_read_makes_writers_wait() -> None:
    async with conversing(INITIAL_WINDOW_SIZE=frames.MAX_WINDOW) as (call, peer):
        peer.send(frames.window_update(0, frames.MAX_WINDOW - 65_535))
        writing = asyncio.create_task(call.write(bytes(64 << 20)))
        await asyncio.sleep(0.3)
        assert not writing.done()
        assert isinstance(transport := call._carrier._transport, asyncio.Transport)  # type: ignore[union-attr]
        assert transport.get_write_buffer_size() < 1 << 20
        received = 0
        while received < (64 << 20) + 5:
            received += (await peer.next(frames.Data)).flow
        await writing


async def test_trailers_without_a_status_and_cut_messages_are_errors() -> None:
    for tail in ("no trailers", "no status", "cut"):
        async with conversing() as (call, peer):
            peer.answer(1)
            if tail == "no trailers":
                peer.send(frames.data(1, b"", end=True))
            elif tail == "no status":
                peer.send(peer.headers(1, [("x", "y")], end=True))
            else:
                peer.send(frames.data(1, b"\0\0"), peer.headers(1, DONE, end=True))
            assert isinstance(await failure(call), errors.EngineFailed)


async def test_a_proxys_error_page_is_an_error_of_its_kind() -> None:
    async with conversing() as (call, peer):
        peer.send(peer.headers(1, [(":status", "503"), ("content-type", "text/html")]))
        peer.send(frames.data(1, b"<html>", end=True))
        assert isinstance(await failure(call), errors.EngineUnavailable)


async def test_streams_the_server_ends_are_closed_on_our_side_too() -> None:
    async with conversing() as (call, peer):
        peer.answer(1)
        peer.send(peer.headers(1, DONE, end=True))
        assert await call.read() is None
        assert (await peer.next(frames.Reset)).code == ErrorCode.NO_ERROR
        peer.answer(1, b"late")
        peer.send(frames.PING)
        await peer.next(frames.PingAck)


@pytest.mark.parametrize(
    "bad",
    [
        raw(1, 4, 1, b"\xff\xff\xff\xff\xff"),
        raw(0, 0, 3, b""),
        raw(0, 0, 2, b""),
        raw(8, 0, 0, bytes(4)),
        raw(8, 0, 0, b"\x7f\xff\xff\xff"),
        raw(4, 0, 0, struct.pack(">HL", 4, 1 << 31)),
        raw(4, 0, 0, struct.pack(">HL", 5, 1)),
        raw(5, 4, 1, bytes(8)),
        b"HTTP/1.1 400 Bad Request\r\n\r\n" * 10,
    ],
)
async def test_a_server_that_breaks_the_protocol_loses_the_connection(bad: bytes) -> None:
    async with conversing() as (call, peer):
        peer.send(bad)
        assert isinstance(await failure(call), errors.EngineUnavailable)
        assert (await peer.next(frames.GoAway)).code != ErrorCode.NO_ERROR
        await peer.hung_up()


@pytest.mark.parametrize(
    "bad", [raw(8, 0, 1, bytes(4)), raw(8, 0, 1, b"\x7f\xff\xff\xff"), frames.data(1, b"")]
)
async def test_what_breaks_one_stream_ends_only_that_stream(bad: bytes) -> None:
    async with conversing() as (call, peer):
        peer.send(bad)
        await peer.next(frames.Reset)
        assert isinstance(await failure(call), errors.EngineFailed)
        peer.send(frames.PING)
        await peer.next(frames.PingAck)


@settings(max_examples=150)
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=60),
            st.builds(
                raw, st.integers(0, 10), st.integers(0, 255), st.integers(0, 3), st.binary(max_size=30)
            ),
            st.builds(raw, st.just(0), st.integers(0, 1), st.just(1), st.binary(max_size=30)),
        ),
        max_size=8,
    )
)
def test_no_bytes_of_a_server_raise_in_the_loop(said: list[bytes]) -> None:
    raised: list[Any] = []

    async def go() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: raised.append(context))
        async with conversing() as (call, peer):
            peer.answer(1)
            peer.send(*said)
            peer.close()
            with suppress(errors.PerchError):
                async with asyncio.timeout(30):
                    await read_all(call)

    asyncio.run(go())
    assert not raised


async def test_a_server_that_takes_no_streams_is_full() -> None:
    async with listening() as listener, calling(listener.address) as calls:
        with calls.call() as call:
            connecting = asyncio.create_task(call.connect())
            await listener.peer(MAX_CONCURRENT_STREAMS=0)
            with pytest.raises(errors.EngineFull):
                await connecting


async def test_a_connection_is_not_made_for_nobody_and_waits_for_the_servers_word() -> None:
    async with listening() as listener, calling(listener.address) as calls:
        with calls.call() as patient:
            connecting = asyncio.create_task(patient.connect())
            with calls.call() as impatient:
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.1):
                        await impatient.connect()
            assert calls.streams == [1], "others wait for the same connection"
            connecting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await connecting
        await asyncio.sleep(0)
        with calls.call() as call:
            connecting = asyncio.create_task(call.connect())
            first = listener.all[0]
            await first.hung_up()
            await asyncio.sleep(0.05)
            await listener.all[-1].greet()
            await connecting


async def test_ending_the_client_ends_its_calls() -> None:
    async with listening() as listener, calling(listener.address) as calls:
        with calls.call() as call:
            _, peer = await asyncio.gather(call.connect(), listener.peer())
            await calls.aclose()
            assert isinstance(await failure(call), errors.EngineUnavailable)
            await peer.hung_up()
