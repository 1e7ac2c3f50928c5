"""Twice as many clients as there are places: half get a clean refusal at once, the others notice nothing."""

import asyncio
import time
from dataclasses import dataclass
from statistics import median

import pytest

from chaos.leaks import at_rest, no_leaks
from chaos.talking import Said, assert_equal, sentences, speech, talk, words
from engines import scripted_engine
from gateways import Gateway, Heard, gateway
from perch.asr.riva_client import RivaASRClient, RivaConfig
from perch.server.config import AdmissionConfig, GatewayConfig

PLACES = 12
ATTEMPTS = 3  # at a comparison of two times, since what else this machine does changes meanwhile
SPEECH = speech(sentences(3))


@dataclass(frozen=True)
class Refusal:
    """What a client without a place was told, and after how long."""

    status: int
    code: str
    retry_after: str | None
    after_s: float


async def knock(at: Gateway) -> Refusal:
    """An upgrade that is refused."""
    began = time.monotonic()
    headers = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    async with at.client.get(at.ws.replace("ws", "http", 1), headers=headers) as answer:
        body = await answer.json()
        waited = time.monotonic() - began
        return Refusal(answer.status, body["error"]["code"], answer.headers.get("Retry-After"), waited)


async def full_house(at: Gateway, expected: Said) -> float:
    """Every place taken by a session that talks and is understood; the median length of theirs, seconds."""

    async def one() -> tuple[float, Heard]:
        began = time.monotonic()
        heard = await talk(at, SPEECH, speed=1.5)
        return time.monotonic() - began, heard

    both = await asyncio.gather(*(one() for _ in range(PLACES)))
    for _, heard in both:
        assert_equal(heard, expected)
    return median(length for length, _ in both)


@dataclass(frozen=True)
class Crowding:
    """How long the admitted took (median, seconds) alone and in the crowd, and what the others were told."""

    alone_s: float
    crowded_s: float
    refusals: list[Refusal]

    @property
    def unnoticed(self) -> bool:
        """Whether the admitted kept their latency and the others were told at once."""
        refused_s = median(refusal.after_s for refusal in self.refusals)
        return self.crowded_s < 1.25 * self.alone_s and refused_s < self.alone_s / 10


async def crowding(at: Gateway, expected: Said) -> Crowding:
    alone = await full_house(at, expected)
    crowd = asyncio.create_task(full_house(at, expected))
    while at.parts.admission.active < PLACES:  # noqa: ASYNC110 - there is no event for it
        await asyncio.sleep(0.01)
    refusals: list[Refusal] = []
    for _ in range(5):  # they come again and again, as clients do
        refusals += await asyncio.gather(*(knock(at) for _ in range(PLACES)))
        await asyncio.sleep(0.3)
    crowded = await crowd
    return Crowding(alone, crowded, refusals)


@pytest.mark.usefixtures("warm")
@pytest.mark.timeout(240)
async def test_at_twice_its_capacity_the_admitted_finish_as_ever_and_the_others_are_refused_at_once() -> None:
    limit = AdmissionConfig(max_sessions=PLACES)
    async with no_leaks(), scripted_engine(slots=PLACES) as engine:
        client = RivaASRClient(RivaConfig(endpoints=(engine.address,)))
        async with gateway(client, GatewayConfig(admission=limit)) as at:
            expected = words(await talk(at, SPEECH, speed=8.0))
            for attempt in range(1, ATTEMPTS + 1):
                crowded = await crowding(at, expected)
                assert {(refusal.status, refusal.code) for refusal in crowded.refusals} == {
                    (503, "at_capacity")
                }
                assert all(refusal.retry_after for refusal in crowded.refusals)
                if crowded.unnoticed:
                    break
                assert attempt < ATTEMPTS, crowded
            await at_rest(at, client.pool)


@pytest.mark.usefixtures("warm")
async def test_a_place_that_becomes_free_is_given_to_the_next() -> None:
    async with scripted_engine() as engine:
        client = RivaASRClient(RivaConfig(endpoints=(engine.address,)))
        async with gateway(client, GatewayConfig(admission=AdmissionConfig(max_sessions=1))) as at:
            for _ in range(3):
                heard = await talk(at, SPEECH, speed=20.0)
                assert_equal(heard, words(heard))
                await at_rest(at, client.pool)
