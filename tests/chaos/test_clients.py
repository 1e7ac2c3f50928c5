"""Clients that misbehave, by accident or on purpose: the others are served, and nothing is left behind."""

import asyncio
import random
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import orjson
import pytest
from bench.websocket_client import PATH, client_frame

from chaos.leaks import at_rest, memory_within, no_leaks
from chaos.talking import assert_equal, sentences, speech, talk, words, written
from engines import scripted_engine
from gateways import Gateway, gateway
from perch.asr.riva_client import RivaASRClient, RivaConfig
from perch.server.config import AdmissionConfig, GatewayConfig, ResumeConfig

pytestmark = pytest.mark.usefixtures("warm")

SPOKEN = sentences(7)
SPEECH = speech(SPOKEN)
DEADLINE_S = 20.0
TEXT, CONTINUATION, BINARY = 1, 0, 2
FIN = 0x80
RESET = struct.pack("ii", 1, 0)
CONFIG = GatewayConfig(
    admission=AdmissionConfig(max_sessions=2_000, max_sessions_per_key=2_000, max_sessions_per_address=2_000),
    resume=ResumeConfig(ttl_s=1.0),
    heartbeat_s=0.5,
)
"""Whoever is gone is noticed soon, and not waited for long."""


@asynccontextmanager
async def served() -> AsyncIterator[tuple[Gateway, RivaASRClient]]:
    """A gateway over an engine; whatever happens in the block, it still serves, and then holds nothing."""
    async with no_leaks(), scripted_engine(slots=2_000) as engine:
        client = RivaASRClient(RivaConfig(endpoints=(engine.address,)))
        async with gateway(client, CONFIG) as at:
            yield at, client
            await serves(at)
            await at_rest(at, client.pool)


async def serves(at: Gateway) -> None:
    heard = await talk(at, SPEECH, speed=20.0, deadline_s=DEADLINE_S)
    assert_equal(heard, words(heard))
    assert heard.text.split() == written(SPOKEN)


# --- raw sockets -------------------------------------------------------------------------------------


class Raw:
    """A TCP connection to the gateway, below any WebSocket library."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def upgrade(self) -> None:
        self.writer.write(UPGRADE)
        async with asyncio.timeout(DEADLINE_S):
            head = await self.reader.readuntil(b"\r\n\r\n")
        assert b" 101 " in head, head

    def reset(self) -> None:
        raw = self.writer.get_extra_info("socket")
        with suppress(OSError):  # the gateway may have closed it first
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self.writer.transport.abort()

    async def everything(self) -> bytes:
        """All that comes until the gateway ends the connection."""
        async with asyncio.timeout(DEADLINE_S):
            with suppress(ConnectionResetError):
                return await self.reader.read()
        return b""


UPGRADE = (
    f"GET {PATH} HTTP/1.1\r\nHost: perch\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
).encode()
START = client_frame(TEXT, orjson.dumps({"type": "start", "config": {}}))
STOP = client_frame(TEXT, orjson.dumps({"type": "stop"}))


@asynccontextmanager
async def raw(at: Gateway) -> AsyncIterator[Raw]:
    host, _, port = at.http.removeprefix("http://").rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield Raw(reader, writer)
    finally:
        writer.transport.abort()


# --- handshakes --------------------------------------------------------------------------------------


async def is_reset_after_the_request(one: Raw, dice: random.Random) -> None:
    one.writer.write(UPGRADE)
    await asyncio.sleep(dice.random() * 0.01)


async def is_reset_within_the_request(one: Raw, dice: random.Random) -> None:
    one.writer.write(UPGRADE[: dice.randrange(1, len(UPGRADE))])
    await asyncio.sleep(dice.random() * 0.01)


async def is_reset_without_a_word(one: Raw, dice: random.Random) -> None:
    del one, dice


async def is_reset_after_the_upgrade(one: Raw, dice: random.Random) -> None:
    del dice
    await one.upgrade()


ABORTS: list[Callable[[Raw, random.Random], Awaitable[None]]] = [
    is_reset_after_the_request,
    is_reset_within_the_request,
    is_reset_without_a_word,
    is_reset_after_the_upgrade,
]
AT_ONCE = 20


async def abort_upgrades(at: Gateway, count: int, dice: random.Random) -> None:
    """``count`` connections that break off at some point of their handshake, a few at a time."""

    async def some() -> None:
        for _ in range(count // AT_ONCE):
            async with raw(at) as one:
                await dice.choice(ABORTS)(one, dice)
                one.reset()

    async with asyncio.TaskGroup() as tasks:
        for _ in range(AT_ONCE):
            tasks.create_task(some())


@pytest.mark.parametrize(
    "count", [1_000, pytest.param(10_000, marks=[pytest.mark.chaos, pytest.mark.timeout(300)])]
)
async def test_aborted_upgrades_leave_nothing_behind(count: int) -> None:
    dice = random.Random(count)
    async with served() as (at, client):
        await abort_upgrades(at, 200, dice)  # so that what grows once has grown
        await at_rest(at, client.pool)
        with memory_within(8.0):
            await abort_upgrades(at, count, dice)
            await at_rest(at, client.pool)


async def test_handshakes_that_never_end_keep_nobody_from_being_served() -> None:
    async with served() as (at, _):
        slow = [await asyncio.open_connection(*address(at)) for _ in range(200)]
        for byte in range(40):
            for _, writer in slow:
                writer.write(UPGRADE[byte : byte + 1])
            if byte == 20:
                await serves(at)
            await asyncio.sleep(0.01)
        assert at.parts.admission.active == 0, "an unfinished handshake holds no place"
        for _, writer in slow:
            writer.transport.abort()


def address(at: Gateway) -> tuple[str, int]:
    host, _, port = at.http.removeprefix("http://").rpartition(":")
    return host, int(port)


# --- frames ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
async def test_garbage_instead_of_frames_ends_that_connection_and_no_other(seed: int) -> None:
    async with served() as (at, _), raw(at) as one:
        await one.upgrade()
        one.writer.write(START + random.Random(seed).randbytes(20_000))
        await one.everything()


async def test_frames_in_fragments_and_bytes_one_by_one_are_the_same_speech() -> None:
    async with served() as (at, _), raw(at) as one:
        await one.upgrade()
        frames = [fragments(SPEECH[begin : begin + 3_200]) for begin in range(0, len(SPEECH), 3_200)]
        one.writer.write(START)
        for byte in frames[0]:
            one.writer.write(bytes([byte]))
            await asyncio.sleep(0)
        for frame in frames[1:]:
            one.writer.write(frame)
            await one.writer.drain()
        one.writer.write(STOP)
        async with asyncio.timeout(DEADLINE_S):
            said = await one.reader.readuntil(b'"done"')
    spoken = [event["text"] for event in events(said) if event["type"] == "final" and event["text"]]
    assert " ".join(spoken).split() == written(SPOKEN)


def fragments(payload: bytes, size: int = 700) -> bytes:
    """One binary message in several frames (RFC 6455 section 5.4)."""
    cuts = [payload[begin : begin + size] for begin in range(0, len(payload), size)]
    frames = [client_frame(BINARY if index == 0 else CONTINUATION, piece) for index, piece in enumerate(cuts)]
    open_ended = [bytes([frame[0] & ~FIN]) + frame[1:] for frame in frames[:-1]]
    return b"".join([*open_ended, frames[-1]])


def events(stream: bytes) -> list[dict[str, Any]]:
    """The JSON of the server's whole text frames; it masks none and fragments none."""
    found = []
    while len(stream) > 10:
        length, begin = stream[1], 2
        if length >= 126:
            begin = 4 if length == 126 else 10
            length = int.from_bytes(stream[2:begin], "big")
        if stream[0] & 0x0F == TEXT and len(stream) >= begin + length:
            found.append(orjson.loads(stream[begin : begin + length]))
        stream = stream[begin + length :]
    return found


# --- sessions ----------------------------------------------------------------------------------------


async def test_a_client_that_sends_without_end_and_never_reads_costs_the_others_nothing() -> None:
    """What waits for it is merged and bounded; when it is gone at last, so is all it had."""
    async with served() as (at, client), raw(at) as one:
        await one.upgrade()
        one.writer.transport.pause_reading()  # type: ignore[attr-defined]
        one.writer.write(START)
        sending = asyncio.create_task(send_without_end(one))
        try:
            with memory_within(24.0):
                for _ in range(4):
                    await serves(at)
            assert at.parts.admission.active, "it talks, so it is not idle"
        finally:
            sending.cancel()
            one.reset()
        await at_rest(at, client.pool)


async def send_without_end(one: Raw) -> None:
    """Far faster than speech, for ever."""
    while True:
        for begin in range(0, len(SPEECH), 3_200):
            one.writer.write(client_frame(BINARY, SPEECH[begin : begin + 3_200]))
            await asyncio.sleep(0.005)


async def test_a_client_that_neither_sends_nor_answers_pings_is_let_go_of() -> None:
    async with served() as (at, client), raw(at) as one:
        await one.upgrade()
        one.writer.transport.pause_reading()  # type: ignore[attr-defined]
        one.writer.write(START + client_frame(BINARY, SPEECH[:32_000]))
        await at_rest(at, client.pool)


async def test_a_client_that_half_closes_in_the_middle_is_gone() -> None:
    async with served() as (at, client), raw(at) as one:
        await one.upgrade()
        one.writer.write(START + client_frame(BINARY, SPEECH[:64_000]))
        one.writer.write_eof()
        await one.everything()
        await at_rest(at, client.pool)


async def test_a_storm_of_disconnects_in_mid_speech_frees_everything() -> None:
    async with served() as (at, client):
        async with asyncio.TaskGroup() as tasks:
            for index in range(60):
                tasks.create_task(speak_and_break_off(at, index))
        await at_rest(at, client.pool)


async def speak_and_break_off(at: Gateway, index: int) -> None:
    async with raw(at) as one:
        await one.upgrade()
        one.writer.write(START)
        for begin in range(0, 3_200 * (5 + index % 20), 3_200):
            one.writer.write(client_frame(BINARY, SPEECH[begin : begin + 3_200]))
            await asyncio.sleep(0.02)
        one.reset()
