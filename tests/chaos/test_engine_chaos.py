"""Engines die, freeze and lose their network while people speak: nobody loses, repeats or misplaces a word.

The engines are processes of their own over a recogniser whose text depends on the audio alone, so what an
undisturbed session said is exactly what every disturbed one has to say.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass

import pytest

from chaos.engine_process import EngineProcess, engine_process
from chaos.leaks import at_rest, no_leaks
from chaos.proxy import ChaosProxy, chaos_proxy
from chaos.talking import Said, assert_equal, sentences, speech, talk, words, written
from engines import scripted_engine
from gateways import Gateway, Heard, gateway
from perch.asr.attempt import AttemptTimeouts
from perch.asr.pool import PoolConfig
from perch.asr.riva_client import RivaASRClient, RivaConfig
from perch.core.messages import Backend

BATCH = 25
VOICES = 8
IMPATIENT = AttemptTimeouts(connect_s=2.0, write_s=1.5, first_response_s=1.5, response_s=1.5, finish_s=1.5)
"""An engine that stops answering is given up soon, so that a test need not wait for the usual minute."""
QUICK_BREAKER = PoolConfig(reset_timeout_s=1.0)


@dataclass(frozen=True)
class Voice:
    """Speech, and what an undisturbed session says of it."""

    audio: bytes
    expected: Said


@asynccontextmanager
async def behind(
    *addresses: str, timeouts: AttemptTimeouts | None = None
) -> AsyncIterator[tuple[Gateway, RivaASRClient]]:
    """A gateway in front of engines."""
    config = RivaConfig(
        endpoints=addresses,
        backend=Backend("riva"),
        timeouts=timeouts or AttemptTimeouts(),
        pool=QUICK_BREAKER,
    )
    client = RivaASRClient(config)
    async with gateway(client) as at:
        yield at, client


async def voices(at: Gateway, count: int = VOICES) -> list[Voice]:
    """Voices, each heard once without disturbance."""
    spoken = [sentences(seed) for seed in range(count)]
    heard = await asyncio.gather(*(talk(at, speech(text), speed=4.0) for text in spoken))
    for text, one in zip(spoken, heard, strict=True):
        assert_equal(one, words(one))
        assert [word for word, _, _ in words(one)] == written(text), "the recogniser is exact"
    return [Voice(speech(text), words(one)) for text, one in zip(spoken, heard, strict=True)]


async def batch(at: Gateway, voices: Sequence[Voice], count: int, dice: random.Random) -> list[Heard]:
    """``count`` sessions at once, at the pace of speech, begun within two seconds."""
    chosen = [dice.choice(voices) for _ in range(count)]
    async with asyncio.TaskGroup() as tasks:
        talks = [tasks.create_task(talk(at, voice.audio, after_s=dice.uniform(0, 2))) for voice in chosen]
    heard = [task.result() for task in talks]
    for voice, one in zip(chosen, heard, strict=True):
        assert_equal(one, voice.expected)
    return heard


@asynccontextmanager
async def killing(engines: Sequence[EngineProcess], dice: random.Random) -> AsyncIterator[None]:
    """Again and again, at random moments, one engine is killed and comes back on its port."""

    async def kill() -> None:
        while True:
            await asyncio.sleep(dice.uniform(0.3, 1.5))
            victim = dice.choice(engines)
            await victim.kill()
            await victim.start()

    task = asyncio.create_task(kill())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    for engine in engines:
        await engine.revive()


def failovers(heard: Sequence[Heard]) -> int:
    return sum(notice["code"] == "engine_failover" for one in heard for notice in one.of("notice"))


async def survive_kills(sessions: int, seed: int) -> int:
    """Talk through the killing of engines; returns how many failovers clients were told of."""
    dice = random.Random(seed)
    seen = 0
    async with no_leaks(), engine_process() as first, engine_process() as second:
        async with behind(first.address, second.address) as (at, client):
            known = await voices(at)
            for begun in range(0, sessions, BATCH):
                async with killing([first, second], dice):
                    seen += failovers(await batch(at, known, min(BATCH, sessions - begun), dice))
                await at_rest(at, client.pool)
    return seen


@pytest.mark.usefixtures("warm")
@pytest.mark.timeout(120)
async def test_twenty_sessions_lose_no_word_while_engines_are_killed() -> None:
    assert await survive_kills(20, seed=1) > 0, "no session met a dying engine: this proves nothing"


@pytest.mark.chaos
@pytest.mark.usefixtures("warm")
@pytest.mark.timeout(600)
async def test_two_hundred_sessions_lose_no_word_while_engines_are_killed() -> None:
    assert await survive_kills(200, seed=2) > 50


@pytest.mark.timeout(120)
async def test_a_single_engine_that_is_killed_and_comes_back_loses_no_word() -> None:
    async with engine_process() as engine, behind(engine.address) as (at, client):
        [voice] = await voices(at, 1)
        talking = asyncio.create_task(talk(at, voice.audio))
        await until_busy(client)
        await asyncio.sleep(2.0)
        await engine.kill()
        await engine.start()
        heard = await talking
        assert_equal(heard, voice.expected)
        assert failovers([heard]) == 1
        await at_rest(at, client.pool)


@pytest.mark.timeout(120)
async def test_a_frozen_engine_is_left_for_another() -> None:
    async with engine_process() as first, engine_process() as second:
        async with behind(first.address, second.address, timeouts=IMPATIENT) as (at, client):
            known = await voices(at, 4)
            talks = [asyncio.create_task(talk(at, voice.audio)) for voice in known]
            await until_busy(client, 4)
            await asyncio.sleep(1.0)
            first.freeze()
            heard = await asyncio.gather(*talks)
            first.thaw()
            for voice, one in zip(known, heard, strict=True):
                assert_equal(one, voice.expected)
            assert failovers(heard) > 0
            await at_rest(at, client.pool)


@pytest.mark.chaos
@pytest.mark.timeout(120)
async def test_engines_that_freeze_and_thaw_in_turn_lose_no_word() -> None:
    async with engine_process() as first, engine_process() as second:
        async with behind(first.address, second.address, timeouts=IMPATIENT) as (at, client):
            known = await voices(at, 4)
            talks = [asyncio.create_task(talk(at, voice.audio)) for voice in known]
            await until_busy(client, 4)
            for engine in (first, second, first, second):
                engine.freeze()
                await asyncio.sleep(1.0)
                engine.thaw()
            for voice, one in zip(known, await asyncio.gather(*talks), strict=True):
                assert_equal(one, voice.expected)
            await at_rest(at, client.pool)


async def until_busy(client: RivaASRClient, streams: int = 1) -> None:
    async with asyncio.timeout(20):
        while sum(endpoint.active for endpoint in client.pool.endpoints) < streams:  # noqa: ASYNC110 - no event for it
            await asyncio.sleep(0.02)


# --- a bad network between gateway and engines -------------------------------------------------------


async def resets(proxy: ChaosProxy) -> None:
    for _ in range(3):
        proxy.reset()
        await asyncio.sleep(0.7)


async def refuses(proxy: ChaosProxy) -> None:
    proxy.refuse()
    proxy.reset()
    await asyncio.sleep(2.0)
    await proxy.accept()


async def swallows_requests(proxy: ChaosProxy) -> None:
    proxy.up.black_hole()
    await asyncio.sleep(4.0)


async def swallows_answers(proxy: ChaosProxy) -> None:
    proxy.down.black_hole()
    await asyncio.sleep(4.0)


async def swallows_both_for_a_moment(proxy: ChaosProxy) -> None:
    proxy.up.black_hole()
    proxy.down.black_hole()
    await asyncio.sleep(0.8)


async def trickles(proxy: ChaosProxy) -> None:
    proxy.up.bytes_per_s = 4_000.0
    proxy.down.bytes_per_s = 200.0
    await asyncio.sleep(3.0)


async def half_closes_upwards(proxy: ChaosProxy) -> None:
    proxy.half_close("up")


async def half_closes_downwards(proxy: ChaosProxy) -> None:
    proxy.half_close("down")


async def is_slow_and_unsteady(proxy: ChaosProxy) -> None:
    for way in (proxy.up, proxy.down):
        way.latency_s, way.jitter_s = 0.1, 0.2
    await asyncio.sleep(4.0)


Fault = Callable[[ChaosProxy], Awaitable[None]]
FAULTS: list[Fault] = [
    resets,
    refuses,
    swallows_requests,
    swallows_answers,
    swallows_both_for_a_moment,
    trickles,
    half_closes_upwards,
    half_closes_downwards,
    is_slow_and_unsteady,
]
QUICK: list[Fault] = [resets, swallows_answers, half_closes_upwards]
SITUATIONS = [
    pytest.param(
        fault,
        alternatives,
        id=f"{fault.__name__}-{'beside a good one' if alternatives else 'alone'}",
        marks=[] if fault in QUICK and not alternatives else [pytest.mark.chaos],
    )
    for fault in FAULTS
    for alternatives in (0, 1)
]


@pytest.mark.parametrize(("fault", "alternatives"), SITUATIONS)
@pytest.mark.timeout(120)
async def test_no_word_is_lost_when_the_network_to_an_engine(fault: Fault, alternatives: int) -> None:
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(scripted_engine())
        proxies = [
            await stack.enter_async_context(chaos_proxy(engine.address)) for _ in range(1 + alternatives)
        ]
        addresses = [proxy.address for proxy in proxies]
        at, client = await stack.enter_async_context(behind(*addresses, timeouts=IMPATIENT))
        known = await voices(at, 4)
        talks = [asyncio.create_task(talk(at, voice.audio, speed=1.5)) for voice in known]
        await until_busy(client, 4)
        await asyncio.sleep(1.0)
        await fault(proxies[0])
        proxies[0].clear()
        for voice, one in zip(known, await asyncio.gather(*talks), strict=True):
            assert_equal(one, voice.expected)
        await at_rest(at, client.pool)
