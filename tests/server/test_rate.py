"""Limits per minute, in this process and in a real Redis that comes and goes."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateways import DEADLINE_S, cut, gateway, transcribe
from perch.asr.mock import MockASRClient
from perch.errors import AtCapacity, BadConfig, RateLimited
from perch.server.config import AccessConfig, GatewayConfig, RateConfig
from perch.server.keys import KeyEntry, hash_key, new_key, write_entries
from perch.server.principal import KeyLimits, Principal
from perch.server.rate import Counts, RateLimits
from perch.server.throttle import FailedAttempts
from server.redis_process import redis

ALICE = Principal("alice", limits=KeyLimits(audio_s_per_min=10, requests_per_min=3))
FREE = Principal("free")


@asynccontextmanager
async def limits(config: RateConfig | None = None) -> AsyncIterator[RateLimits]:
    config = config or RateConfig()
    counts = Counts(config)
    rates = RateLimits(config, counts)
    try:
        yield rates
    finally:
        await rates.aclose()
        await counts.aclose()


async def refusals(rates: RateLimits, principal: Principal, count: int) -> int:
    waits = []
    for _ in range(count):
        try:
            await rates.request(principal)
        except RateLimited as error:
            waits.append(error.retry_after or 0)
    assert all(1 <= wait_s <= 60 for wait_s in waits)
    return len(waits)


async def counted(rates: RateLimits, principal: Principal) -> None:
    """Let what was spent be counted."""
    async with asyncio.timeout(DEADLINE_S):
        while (account := rates._accounts.get(principal.name)) and account.settling is not None:
            await account.settling


async def test_so_many_requests_a_minute_and_no_more() -> None:
    async with limits() as rates:
        assert await refusals(rates, ALICE, 5) == 2
        assert await refusals(rates, FREE, 100) == 0


async def test_the_gateways_limits_are_for_those_that_have_none_of_their_own() -> None:
    async with limits(RateConfig(requests_per_min=1)) as rates:
        assert await refusals(rates, FREE, 3) == 2
        assert await refusals(rates, ALICE, 3) == 0


async def test_audio_over_the_limit_ends_every_session_of_the_key_and_lets_none_begin() -> None:
    async with limits() as rates:
        for _ in range(10):
            rates.spend(ALICE, 1.0)
        await counted(rates, ALICE)
        rates.spend(ALICE, 1.0)
        await counted(rates, ALICE)
        with pytest.raises(RateLimited, match="10 seconds") as over:
            rates.spend(ALICE, 1.0)
        assert over.value.retry_after is not None
        with pytest.raises(RateLimited):
            await rates.admit(ALICE)
        rates.spend(FREE, 1e9)
        await rates.admit(FREE)


async def test_what_did_not_fit_uses_up_the_rest() -> None:
    """Coming back again and again with one huge frame must not be free."""
    async with limits() as rates:
        rates.spend(ALICE, 4.0)
        await counted(rates, ALICE)
        rates.spend(ALICE, 30.0)
        await counted(rates, ALICE)
        with pytest.raises(RateLimited):
            await rates.admit(ALICE)


async def test_parts_of_seconds_are_not_forgotten() -> None:
    async with limits() as rates:
        for _ in range(120):
            rates.spend(ALICE, 0.1)
        await counted(rates, ALICE)
        with pytest.raises(RateLimited):
            rates.spend(ALICE, 0.1)


# --- Redis -------------------------------------------------------------------------------------------


async def test_processes_count_together_in_redis(tmp_path: Path) -> None:
    async with redis(tmp_path) as server:
        config = RateConfig(redis_url=server.url, deadline_s=5.0)
        async with limits(config) as one, limits(config) as other:
            assert await refusals(one, ALICE, 2) + await refusals(other, ALICE, 2) == 1
            one.spend(ALICE, 6.0)
            await counted(one, ALICE)
            other.spend(ALICE, 6.0)
            await counted(other, ALICE)
            for rates in (one, other):
                with pytest.raises(RateLimited):
                    await rates.admit(ALICE)


async def test_an_outage_of_redis_ends_no_session_and_limits_go_on_here(tmp_path: Path) -> None:
    outages: list[None] = []
    async with redis(tmp_path) as server:
        config = RateConfig(redis_url=server.url, retry_s=0.2)
        counts = Counts(config, lambda: outages.append(None))
        rates = RateLimits(config, counts)
        await rates.request(ALICE)
        await server.stop()
        assert await refusals(rates, ALICE, 5) == 2, "counted by this process alone"
        rates.spend(ALICE, 5.0)
        await counted(rates, ALICE)
        rates.spend(ALICE, 1.0)
        assert outages
        await server.start()
        await asyncio.sleep(0.25)  # retry_s: only time brings it back
        before = len(outages)
        await rates.request(ALICE)
        assert len(outages) == before, "asked again"
        await rates.aclose()
        await counts.aclose()


async def test_told_to_be_strict_an_outage_lets_no_session_begin_and_ends_none(tmp_path: Path) -> None:
    async with redis(tmp_path) as server:
        async with limits(RateConfig(redis_url=server.url, on_outage="refuse")) as rates:
            await server.stop()
            with pytest.raises(AtCapacity) as refused:
                await rates.request(ALICE)
            assert refused.value.retry_after == 5.0
            for _ in range(20):
                rates.spend(ALICE, 1.0)
                await counted(rates, ALICE)


async def test_a_redis_that_never_answers_is_waited_for_once_and_not_long() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}"
        async with limits(RateConfig(redis_url=url, deadline_s=1.0, retry_s=60.0)) as rates:
            began = time.monotonic()
            assert await refusals(rates, ALICE, 5) == 2
            assert time.monotonic() - began < 5 * 1.0, "the deadline was waited for once, not five times"


@pytest.mark.parametrize("url", ["127.0.0.1:6379", "memory://", "redis://127.0.0.1:port"])
def test_what_is_no_redis_is_an_error_at_the_start_and_not_shown(url: str) -> None:
    with pytest.raises(BadConfig, match="PERCH_LIMITS_REDIS_URL") as bad:
        Counts(RateConfig(redis_url=url))
    assert url not in bad.value.message


# --- the gateway -------------------------------------------------------------------------------------


def store(path: Path, key: str, limits: KeyLimits) -> GatewayConfig:
    write_entries(path, [KeyEntry("alice", hash_key(key), limits=limits)])
    return GatewayConfig(access=AccessConfig(key_store=path))


async def test_too_many_requests_get_429_and_a_time_before_the_upgrade(tmp_path: Path) -> None:
    key = new_key()
    async with gateway(MockASRClient(), store(tmp_path / "k", key, KeyLimits(requests_per_min=2))) as at:
        for _ in range(2):
            async with at.client.ws_connect(at.ws, headers={"X-API-Key": key}):
                pass
        async with at.client.get(at.http + "/ws/transcribe", headers={"X-API-Key": key}) as refused:
            body = (await refused.json())["error"]
            assert (refused.status, body["code"], body["retryable"]) == (429, "rate_limited", True)
            assert 1 <= int(refused.headers["Retry-After"]) <= 60


async def test_too_much_audio_fails_the_session_with_a_code_and_the_next_before_the_upgrade(
    tmp_path: Path,
) -> None:
    key = new_key()
    async with gateway(MockASRClient(), store(tmp_path / "k", key, KeyLimits(audio_s_per_min=3))) as at:
        heard = await transcribe(at, cut(bytes(32_000 * 20), 16_000), query=f"?api_key={key}", pace_s=0.005)
        assert (heard.error, heard.close_code) == ("rate_limited", 1013)
        assert heard.of("error")[0]["retry_after_s"] >= 1
        async with at.client.get(at.http + "/ws/transcribe", headers={"X-API-Key": key}) as refused:
            assert refused.status == 429


async def test_redis_that_dies_under_sessions_is_counted_and_nobody_notices(tmp_path: Path) -> None:
    key = new_key()
    async with redis(tmp_path) as server:
        config = store(tmp_path / "k", key, KeyLimits(audio_s_per_min=1000, requests_per_min=1000))
        access = AccessConfig(key_store=config.access.key_store, rate=RateConfig(redis_url=server.url))
        async with gateway(MockASRClient(), GatewayConfig(access=access)) as at:
            talking = asyncio.create_task(
                transcribe(at, cut(bytes(32_000 * 4)), query=f"?api_key={key}", pace_s=0.02)
            )
            await asyncio.sleep(0.2)
            await server.stop()
            heard = await talking
            assert heard.events[-1]["type"] == "done"
            after = await transcribe(at, cut(bytes(32_000)), query=f"?api_key={key}")
            assert after.events[-1]["type"] == "done"
            async with at.client.get(at.http + "/metrics") as metrics:
                text = await metrics.text()
            [failures] = [line for line in text.splitlines() if line.startswith("perch_limits_unavailable")]
            assert float(failures.split()[1]) >= 1


# --- failed attempts ---------------------------------------------------------------------------------


def test_an_address_that_failed_too_often_waits_for_the_rest_of_the_minute() -> None:
    failures = FailedAttempts(3)
    for second in range(3):
        assert failures.wait_s("10.0.0.1", second) == 0
        failures.add("10.0.0.1", second)
    assert failures.wait_s("10.0.0.1", 10) == 50
    assert failures.wait_s("10.0.0.2", 10) == 0
    assert failures.wait_s("10.0.0.1", 60) == 0
    failures.add("10.0.0.1", 60)
    assert failures.wait_s("10.0.0.1", 60) == 0


def test_one_host_cannot_use_its_many_ipv6_addresses() -> None:
    failures = FailedAttempts(2)
    failures.add("2001:db8::1", 0)
    failures.add("2001:db8::ffff:2%eth0", 0)
    assert failures.wait_s("2001:db8::3", 0) == 60
    assert failures.wait_s("2001:db8:0:1::3", 0) == 0


def test_no_limit_is_no_limit() -> None:
    failures = FailedAttempts(0)
    failures.add("a", 0)
    assert failures.wait_s("a", 0) == 0


@given(st.lists(st.tuples(st.text(max_size=3), st.floats(0, 200)), max_size=50))
def test_nobody_waits_longer_than_a_minute(attempts: list[tuple[str, float]]) -> None:
    failures = FailedAttempts(1)
    for address, now in sorted(attempts, key=lambda attempt: attempt[1]):
        failures.add(address, now)
        assert 0 <= failures.wait_s(address, now) <= 60.001


def test_only_so_many_addresses_are_remembered() -> None:
    failures = FailedAttempts(1)
    for number in range(10_500):
        failures.add(str(number), 0)
    assert len(failures._windows) == 10_000
