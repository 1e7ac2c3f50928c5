"""The HTTP/2 client against grpcio's own server."""

import asyncio
import os
import signal
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
import uvloop

from perch import errors
from perch.asr.http2.call import Http2Call
from perch.asr.http2.calls import Http2Calls
from perch.asr.http2.connection import ConnectionConfig
from perch.asr.http2.dial import TlsFiles, target_of
from perch.asr.http2.keepalive import KeepaliveConfig

PATH = "/test.Echo/Echo"
TINY: list[tuple[str, int]] = [
    ("grpc.http2.lookahead_bytes", 1024),
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.max_frame_size", 16_384),
]
LARGE = [("grpc.max_receive_message_length", 16 << 20), ("grpc.max_send_message_length", 16 << 20)]

Behaviour = Callable[[AsyncIterator[bytes], Any], AsyncIterator[bytes]]


async def echo(requests: AsyncIterator[bytes], _context: Any) -> AsyncIterator[bytes]:
    async for request in requests:
        yield request


@asynccontextmanager
async def serving(
    behaviour: Behaviour = echo,
    *,
    options: list[tuple[str, int]] | None = None,
    credentials: grpc.ServerCredentials | None = None,
    address: str = "127.0.0.1:0",
) -> AsyncIterator[tuple[Any, str]]:
    """A grpcio server of one method; yields it and its address."""
    server = grpc.aio.server(options=[*LARGE, *(options or [])])
    handler = grpc.stream_stream_rpc_method_handler(behaviour)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", {"Echo": handler}),))
    if credentials is None:
        port = server.add_insecure_port(address)
    else:
        port = server.add_secure_port(address, credentials)
    await server.start()
    try:
        yield server, f"{address.rpartition(':')[0]}:{port}"
    finally:
        await server.stop(None)


@asynccontextmanager
async def calling(
    address: str,
    *,
    tls: TlsFiles | None = None,
    server_name: str = "",
    metadata: tuple[tuple[str, str], ...] = (),
    max_message_bytes: int = 16 << 20,
    **config: Any,
) -> AsyncIterator[Http2Calls]:
    target = target_of(address, tls=tls, server_name=server_name)
    calls = Http2Calls(
        target, PATH, metadata, ConnectionConfig(**config), max_message_bytes=max_message_bytes
    )
    try:
        async with asyncio.timeout(30):
            yield calls
    finally:
        await calls.aclose()


async def echoed(calls: Http2Calls, messages: list[bytes]) -> list[bytes | None]:
    """What comes back for ``messages``, written while reading, and the end."""
    with calls.call() as call:
        await call.connect()

        async def write() -> None:
            for message in messages:
                await call.write(message)
            await call.half_close()

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(write())
            heard = [await call.read() for _ in messages]
        return [*heard, await call.read()]


async def test_messages_of_every_size_come_back_in_order() -> None:
    messages = [b"", b"a", bytes(16_379), bytes(16_380), bytes(70_000), b"z"] * 3
    async with serving() as (_, address), calling(address) as calls:
        assert await echoed(calls, messages) == [*messages, None]


def test_it_works_on_uvloop() -> None:
    async def go() -> None:
        async with serving() as (_, address), calling(address) as calls:
            assert await echoed(calls, [bytes(200_000), b"b"]) == [bytes(200_000), b"b", None]

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(go())


@pytest.mark.parametrize("options", [[], TINY])
async def test_five_megabytes_pass_both_ways_whatever_the_windows(options: list[tuple[str, int]]) -> None:
    large = os.urandom(5 << 20)
    async with serving(options=options) as (_, address), calling(address) as calls:
        assert await echoed(calls, [large, b"after"]) == [large, b"after", None]


async def test_two_hundred_calls_at_once_share_connections_below_the_cap() -> None:
    async with serving() as (_, address), calling(address, max_streams=60) as calls:
        messages = [[bytes([i]) * (50 * i), b"end"] for i in range(200)]
        assert await asyncio.gather(*(echoed(calls, m) for m in messages)) == [[*m, None] for m in messages]
        assert len(calls.streams) >= 200 // 60
        assert sum(calls.streams) == 0


async def test_a_server_that_takes_few_streams_is_given_more_connections() -> None:
    options = [("grpc.max_concurrent_streams", 3)]
    async with serving(options=options) as (_, address), calling(address) as calls:
        async with asyncio.TaskGroup() as tasks:
            release = asyncio.Event()

            async def one() -> None:
                with calls.call() as call:
                    await call.connect()
                    await call.write(b"x")
                    assert await call.read() == b"x"
                    reached.append(1)
                    await release.wait()

            reached: list[int] = []
            for _ in range(10):
                tasks.create_task(one())
            while len(reached) < 10:  # noqa: ASYNC110 - ten calls are answered at the same time
                await asyncio.sleep(0.01)
            assert max(calls.streams) == 3
            release.set()


async def test_a_servers_own_words_arrive_whole() -> None:
    details = "100% \N{SNOWMAN} no model / model=x%20y\n"

    async def refuse(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield request
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, details)

    async with serving(refuse) as (_, address), calling(address) as calls:
        with calls.call() as call:
            await call.connect()
            await call.write(b"x")
            assert await call.read() == b"x", "what came before the end is still read"
            for _ in range(2):
                with pytest.raises(errors.BadConfig) as refused:
                    await call.read()
                assert refused.value.message == details.strip()
            with pytest.raises(errors.EngineUnavailable):
                await call.write(b"y")
            with pytest.raises(errors.EngineUnavailable):
                await call.half_close()


async def test_a_response_of_nothing_but_trailers_is_an_error_at_once() -> None:
    async with serving() as (_, address):
        calls = Http2Calls(
            target_of(address), "/test.Echo/Missing", (), ConnectionConfig(), max_message_bytes=1
        )
        with calls.call() as call:
            await call.connect()
            with pytest.raises(errors.EngineRefused):
                await call.read()
        await calls.aclose()


async def test_metadata_reaches_the_server() -> None:
    seen: dict[str, Any] = {}

    async def note(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        seen.update(dict(context.invocation_metadata()))
        async for request in requests:
            yield request

    metadata = (("Authorization", "Bearer sekret"), ("trace-bin", "\N{SNOWMAN}"))
    async with serving(note) as (_, address), calling(address, metadata=metadata) as calls:
        for _ in range(2):
            await echoed(calls, [b"x"])
            assert seen["authorization"] == "Bearer sekret"
            assert seen["trace-bin"] == "\N{SNOWMAN}".encode()
            assert seen.pop("user-agent").startswith("perch/")


async def test_cancelling_ends_the_call_at_the_server_and_leaves_its_neighbours_alone() -> None:
    ended = asyncio.Event()

    async def watch(requests: AsyncIterator[bytes], _context: Any) -> AsyncIterator[bytes]:
        try:
            async for request in requests:
                yield request
        finally:
            ended.set()

    async with serving(watch) as (_, address), calling(address) as calls:
        with calls.call() as neighbour:
            await neighbour.connect()
            with calls.call() as call:
                await call.connect()
                await call.write(b"x")
                reading = asyncio.create_task(read_all(call))
                await asyncio.sleep(0.05)
                call.cancel()
                call.cancel()
                with pytest.raises(errors.EngineFault):
                    await reading
            await asyncio.wait_for(ended.wait(), 30)
            assert calls.streams == [1]
            await neighbour.write(b"still here")
            assert await neighbour.read() == b"still here"


async def read_all(call: Http2Call) -> None:
    while await call.read() is not None:
        pass


async def test_many_cancelled_calls_do_not_use_up_the_connections_window() -> None:
    async def flood(requests: AsyncIterator[bytes], _context: Any) -> AsyncIterator[bytes]:
        async for _ in requests:
            while True:
                yield bytes(100_000)

    async with serving(flood) as (_, address), calling(address) as calls:
        for _ in range(100):  # together more than the window of the connection
            with calls.call() as call:
                await call.connect()
                await call.write(b"x")
                for _ in range(2):
                    await call.read()
        assert len(calls.streams) == 1


async def test_responses_nobody_reads_are_bounded_and_none_is_lost() -> None:
    sent = 0

    async def flood(_requests: AsyncIterator[bytes], _context: Any) -> AsyncIterator[bytes]:
        nonlocal sent
        for number in range(2000):
            yield number.to_bytes(4, "big") + bytes(996)
            sent += 1

    async with serving(flood, options=TINY) as (_, address), calling(address) as calls:
        with calls.call() as call:
            await call.connect()
            await call.half_close()
            await asyncio.sleep(0.7)
            assert sum(map(len, call._messages)) <= 800_000
            numbers = []
            while (message := await call.read()) is not None:
                numbers.append(int.from_bytes(message[:4], "big"))
            assert numbers == list(range(2000))


async def test_a_message_above_the_limit_ends_the_call_only() -> None:
    async with serving() as (_, address), calling(address, max_message_bytes=100) as calls:
        with pytest.raises(ExceptionGroup) as failed:
            await echoed(calls, [bytes(101)])
        assert failed.group_contains(errors.EngineFull)
        assert await echoed(calls, [bytes(100)]) == [bytes(100), None]


async def test_a_graceful_stop_lets_calls_finish_and_takes_no_new_ones() -> None:
    async with serving() as (server, address), calling(address) as calls:
        with calls.call() as call:
            await call.connect()
            await call.write(b"before")
            assert await call.read() == b"before"
            stopping = asyncio.create_task(server.stop(5))
            await asyncio.sleep(0.2)
            await call.write(b"during")
            assert await call.read() == b"during"
            with calls.call() as late:
                with pytest.raises(errors.EngineUnavailable):
                    await late.connect()
            await call.half_close()
            assert await call.read() is None
        await stopping


async def test_a_server_that_is_killed_and_comes_back_is_found_again() -> None:
    async with serving() as (server, address), calling(address) as calls:
        with calls.call() as call:
            await call.connect()
            await call.write(b"x")
            assert await call.read() == b"x"
            await server.stop(0)
            with pytest.raises(errors.EngineFault):
                await call.read()
        with calls.call() as refused:
            with pytest.raises(errors.EngineUnavailable):
                await refused.connect()
        async with serving(address=address):
            assert await echoed(calls, [b"again"]) == [b"again", None]
            assert len(calls.streams) == 1


async def test_ipv6_addresses_in_brackets_are_reached() -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 on this machine")
    async with serving(address="[::1]:0") as (_, address), calling(address) as calls:
        assert await echoed(calls, [b"six"]) == [b"six", None]


# --- TLS -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def files(tmp_path: Path, authority: trustme.CA) -> TlsFiles:
    issued = authority.issue_cert("client")
    found = TlsFiles(tmp_path / "ca.pem", tmp_path / "cert.pem", tmp_path / "key.pem")
    assert found.root_cert
    assert found.client_cert
    assert found.client_key
    authority.cert_pem.write_to_path(found.root_cert)
    issued.cert_chain_pems[0].write_to_path(found.client_cert)
    issued.private_key_pem.write_to_path(found.client_key)
    return found


def server_credentials(authority: trustme.CA, *names: str, mutual: bool) -> grpc.ServerCredentials:
    issued = authority.issue_cert(*names)
    pair = (issued.private_key_pem.bytes(), issued.cert_chain_pems[0].bytes())
    return grpc.ssl_server_credentials([pair], authority.cert_pem.bytes() if mutual else None, mutual)


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_tls_verifies_the_server_on_both_loops(
    tmp_path: Path, authority: trustme.CA, loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    trusted = TlsFiles(root_cert=files(tmp_path, authority).root_cert)

    async def go() -> None:
        credentials = server_credentials(authority, "127.0.0.1", mutual=False)
        async with serving(credentials=credentials) as (_, address):
            async with calling(address, tls=trusted) as calls:
                assert await echoed(calls, [bytes(100_000)]) == [bytes(100_000), None]
            async with calling(address, tls=TlsFiles()) as stranger:
                with pytest.raises(errors.EngineUnavailable) as refused:
                    await echoed(stranger, [b"x"])
                assert "CERTIFICATE_VERIFY_FAILED" in str(refused.value.__cause__), "for the operator's log"
                assert "CERTIFICATE" not in refused.value.message
            async with calling(address) as in_clear:
                with pytest.raises(errors.EngineUnavailable):
                    await echoed(in_clear, [b"x"])

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(go())


async def test_mutual_tls_needs_the_clients_certificate(tmp_path: Path, authority: trustme.CA) -> None:
    known = files(tmp_path, authority)
    credentials = server_credentials(authority, "127.0.0.1", mutual=True)
    async with serving(credentials=credentials) as (_, address):
        async with calling(address, tls=known) as calls:
            assert await echoed(calls, [b"x"]) == [b"x", None]
        async with calling(address, tls=TlsFiles(root_cert=known.root_cert)) as nobody:
            with pytest.raises(errors.EngineUnavailable):
                await echoed(nobody, [b"x"])


async def test_the_server_must_bear_the_name_that_is_expected(tmp_path: Path, authority: trustme.CA) -> None:
    trusted = TlsFiles(root_cert=files(tmp_path, authority).root_cert)
    async with serving(credentials=server_credentials(authority, "riva.example", mutual=False)) as (
        _,
        address,
    ):
        async with calling(address, tls=trusted, server_name="riva.example") as calls:
            assert await echoed(calls, [b"x"]) == [b"x", None]
        async with calling(address, tls=trusted) as other:
            with pytest.raises(errors.EngineUnavailable):
                await echoed(other, [b"x"])


async def test_a_server_that_speaks_only_http_1_is_refused(tmp_path: Path, authority: trustme.CA) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    writers: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(lambda _, w: writers.append(w), "127.0.0.1", 0, ssl=context)
    address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with calling(address, tls=TlsFiles(root_cert=files(tmp_path, authority).root_cert)) as calls:
        with pytest.raises(errors.EngineUnavailable):
            await echoed(calls, [b"x"])
    for writer in writers:
        writer.transport.abort()
    server.close()
    await server.wait_closed()


def test_tls_files_that_do_not_belong_together_are_refused(tmp_path: Path, authority: trustme.CA) -> None:
    known = files(tmp_path, authority)
    with pytest.raises(ValueError, match="TLS files"):
        target_of("riva:1", tls=TlsFiles(client_cert=known.client_cert, client_key=known.root_cert))
    with pytest.raises(ValueError, match="TLS files"):
        target_of("riva:1", tls=TlsFiles(root_cert=tmp_path / "missing.pem"))


# --- a server that falls silent ------------------------------------------------------------------------

_FROZEN = """
import asyncio, sys
sys.path[:0] = ["tests"]
from asr.test_http2_grpc import serving
async def main():
    async with serving() as (_, address):
        print(address, flush=True)
        await asyncio.sleep(60)
asyncio.run(main())
"""


async def test_a_frozen_server_is_noticed_by_its_silence() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _FROZEN, cwd=Path(__file__).parents[2], stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        address = (await process.stdout.readline()).decode().strip()
        async with calling(address, keepalive=KeepaliveConfig(0.2, 0.3)) as calls:
            with calls.call() as call:
                await call.connect()
                await call.write(b"x")
                assert await call.read() == b"x"
                await asyncio.sleep(0.6)
                assert not call.is_over, "a server that answers pings is alive"
                process.send_signal(signal.SIGSTOP)
                await call.write(b"y")
                with pytest.raises(errors.EngineUnavailable):
                    await call.read()
    finally:
        process.kill()
        with suppress(ProcessLookupError):
            await process.communicate()


async def test_nothing_listening_is_an_error() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        async with calling(f"127.0.0.1:{taken.getsockname()[1]}") as calls:
            with pytest.raises(errors.EngineUnavailable):
                await echoed(calls, [b"x"])
    async with calling("no-such-host.invalid:1") as calls:
        with pytest.raises(errors.EngineUnavailable):
            await echoed(calls, [b"x"])
