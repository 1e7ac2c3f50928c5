"""The wall clock of a machine may jump by hours, when it is set or its host wakes up: nothing may rest on it."""

import asyncio
import datetime as dt
import time

import pybreaker
import pytest

from chaos.leaks import at_rest
from chaos.talking import assert_equal, sentences, speech, talk, words, written
from engines import scripted_engine
from gateways import gateway
from perch.asr.pool import EndpointPool, PoolConfig
from perch.asr.riva_client import RivaASRClient, RivaConfig
from perch.errors import EngineUnavailable

HOUR = dt.timedelta(hours=1)
SPOKEN = sentences(11)


def set_clock(monkeypatch: pytest.MonkeyPatch, by: dt.timedelta) -> None:
    """From now on the wall clock is wrong by ``by``, for our code and the circuit breaker's."""
    right = time.time

    class Jumped(dt.datetime):
        @classmethod
        def now(cls, tz: dt.tzinfo | None = None) -> "Jumped":
            return cls.fromtimestamp(right() + by.total_seconds(), tz)

    monkeypatch.setattr(pybreaker, "datetime", Jumped)
    monkeypatch.setattr(time, "time", lambda: right() + by.total_seconds())


@pytest.mark.parametrize("by", [HOUR, -HOUR], ids=["forward", "back"])
async def test_an_engine_that_failed_before_the_clock_jumped_is_used_again_in_time(
    monkeypatch: pytest.MonkeyPatch, by: dt.timedelta
) -> None:
    pool = EndpointPool(["engine:1"], PoolConfig(fail_max=1, reset_timeout_s=0.2))
    [endpoint] = pool.endpoints
    pool.failed(endpoint, EngineUnavailable("it is gone"))
    set_clock(monkeypatch, by)
    with pytest.raises(EngineUnavailable), pool.lease():
        pass
    await asyncio.sleep(0.25)
    with pool.lease() as probed:
        pool.answered(probed)
    with pool.lease(), pool.lease():
        assert endpoint.breaker.current_state == pybreaker.STATE_CLOSED


@pytest.mark.parametrize("by", [HOUR, -HOUR], ids=["forward", "back"])
async def test_a_session_does_not_notice_that_the_clock_jumps(
    monkeypatch: pytest.MonkeyPatch, by: dt.timedelta
) -> None:
    async with scripted_engine() as engine:
        client = RivaASRClient(RivaConfig(endpoints=(engine.address,)))
        async with gateway(client) as at:
            talking = asyncio.create_task(talk(at, speech(SPOKEN), speed=4.0))
            await asyncio.sleep(0.7)
            set_clock(monkeypatch, by)
            heard = await talking
            assert_equal(heard, words(heard))
            assert heard.text.split() == written(SPOKEN)
            await at_rest(at, client.pool)
