"""``perch transcribe`` and a network that fails: the words and their times are those of an undisturbed run."""

import asyncio
import random
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import pytest

from engines import scripted_engine, tone_speech
from gateways import Gateway, cut, gateway
from perch.asr.riva_client import RivaASRClient, RivaConfig
from perch.cli.native_client import ServerConfig, TranscriptionFailed, transcribe
from perch.core.messages import Backend, Final
from perch.server.config import GatewayConfig, ResumeConfig
from relays import relay

SPEECH = tone_speech("open the door", "stop now", "hello bird")


def client_of(address: str) -> RivaASRClient:
    return RivaASRClient(RivaConfig(endpoints=(address,), backend=Backend("engine")))


def port_of(at: Gateway) -> int:
    port = urlsplit(at.http).port
    assert port is not None
    return port


async def spoken(pace_s: float = 0.01) -> AsyncIterator[bytes]:
    for chunk in cut(SPEECH):
        yield chunk
        await asyncio.sleep(pace_s)


async def finals(url: str) -> list[Final]:
    async with asyncio.timeout(40):
        return [
            update async for update in transcribe(ServerConfig(url), spoken()) if isinstance(update, Final)
        ]


async def test_a_dropped_connection_is_resumed() -> None:
    dice = random.Random(7)
    async with scripted_engine() as engine, gateway(client_of(engine.address)) as at:
        undisturbed = await finals(at.http)
        async with relay(port_of(at), lambda: dice.randrange(20_000, 80_000)) as cutting:
            heard = await finals(f"http://{cutting.url}")
            assert cutting.cuts > 2
    assert heard == undisturbed
    assert len(heard) == 3


async def test_where_nobody_knows_the_session_another_begins_on_the_same_clock() -> None:
    async with (
        scripted_engine() as engine,
        gateway(client_of(engine.address)) as first,
        gateway(client_of(engine.address)) as second,
    ):
        undisturbed = await finals(first.http)
        budgets = iter([150_000])
        async with relay(port_of(first), lambda: next(budgets, None)) as cutting:
            running = asyncio.create_task(finals(f"http://{cutting.url}"))
            async with asyncio.timeout(20):
                while not cutting.cuts:  # noqa: ASYNC110
                    await asyncio.sleep(0.001)
            cutting.port = port_of(second)
            heard = await running
    assert [(final.segment, final.text) for final in heard] == [(f.segment, f.text) for f in undisturbed]
    for ours, theirs in zip(heard, undisturbed, strict=True):
        assert ours.start == pytest.approx(theirs.start, abs=320)


async def test_a_gateway_that_stays_away_is_given_up() -> None:
    config = GatewayConfig(resume=ResumeConfig(ttl_s=0.5))
    async with scripted_engine() as engine, gateway(client_of(engine.address), config) as at:
        async with relay(port_of(at), lambda: 60_000) as cutting:
            running = asyncio.create_task(finals(f"http://{cutting.url}"))
            async with asyncio.timeout(20):
                while not cutting.cuts:  # noqa: ASYNC110
                    await asyncio.sleep(0.001)
            cutting.port = 9
        with pytest.raises(TranscriptionFailed):
            await running


async def test_where_nobody_answers_the_command_that_starts_a_server_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PERCH_COMMAND", "./run")
    with pytest.raises(TranscriptionFailed, match=r"Start a server with `\./run serve`"):
        await finals("http://127.0.0.1:9")
