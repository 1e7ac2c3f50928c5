"""An engine in a real Redis: there, alive, whole again after Redis was away, and gone at its end."""

import asyncio
import builtins
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from perch.core.speech import RecognitionConfig
from perch.engine.gpu import GpuMemory, gpu_memory, in_gigabytes, parse
from perch.engine.registration import Registration, RegistrationConfig, WorkerState, state_of
from perch.engine.scheduler import Scheduler
from perch.errors import BadConfig
from perch.inference.scripted import CAPABILITIES, ScriptedRecogniser
from server.redis_process import RedisProcess
from server.redis_process import redis as running_redis

WORKER = "dalston:realtime:worker:realtime-parakeet-1"
SET = "dalston:realtime:workers"
_ANY = RecognitionConfig()
READY = WorkerState("ready", 4, 0, ("parakeet-0.6b", "parakeet"), ("en",))
FIELDS = {
    "endpoint", "status", "capacity", "active_sessions", "gpu_memory_used", "gpu_memory_total",
    "models_loaded", "languages_supported", "last_heartbeat", "started_at",
}  # fmt: skip


class Stated:
    """A state that a test may change."""

    def __init__(self) -> None:
        self.now = READY

    def __call__(self) -> WorkerState:
        return self.now


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[RedisProcess]:
    async with running_redis(tmp_path) as process:
        yield process


@pytest.fixture
async def reader(server: RedisProcess) -> AsyncIterator[Redis]:
    client = Redis.from_url(server.url, decode_responses=True)
    yield client
    await client.aclose()


def config(url: str, **changes: Any) -> RegistrationConfig:
    base = RegistrationConfig(url, "realtime-parakeet-1", "realtime-parakeet-1:9000", heartbeat_s=0.1)
    return replace(base, **changes)


async def memory() -> GpuMemory:
    return GpuMemory(used=4301, total=24_576)


def registered(url: str, state: Callable[[], WorkerState] = Stated(), **changes: Any) -> Registration:  # noqa: B008
    return Registration(config(url, **changes), state, memory=memory)


async def told(reader: Redis, wanted: Callable[[dict[str, str]], object]) -> dict[str, str]:
    """The worker's hash, as soon as it is as wanted."""
    async with asyncio.timeout(20):
        while True:
            try:
                hash_ = await _boxed(reader.hgetall(WORKER))
            except (RedisConnectionError, OSError):
                hash_ = {}
            if wanted(hash_):
                return hash_
            await asyncio.sleep(0.02)  # Redis has no event for a changed hash that needs no configuration


async def until(holds: Callable[[], Awaitable[object]]) -> None:
    async with asyncio.timeout(30):
        while not await holds():  # noqa: ASYNC110 of what is in Redis there is no event
            await asyncio.sleep(0.02)


async def _is(holds: bool) -> bool:
    return holds


async def _boxed(answer: Any) -> dict[str, str]:
    return dict(await answer)


async def test_hgetall_shows_status_capacity_sessions_and_models(server: RedisProcess, reader: Redis) -> None:
    """004-16, 004-34."""
    async with registered(server.url):
        hash_ = await told(reader, len)
        assert hash_.keys() == FIELDS
        assert hash_["endpoint"] == "realtime-parakeet-1:9000"
        assert (hash_["status"], hash_["capacity"], hash_["active_sessions"]) == ("ready", "4", "0")
        assert json.loads(hash_["models_loaded"]) == ["parakeet-0.6b", "parakeet"]
        assert json.loads(hash_["languages_supported"]) == ["en"]
        assert (hash_["gpu_memory_used"], hash_["gpu_memory_total"]) == ("4.2GB", "24.0GB")
        assert await reader.sismember(SET, "realtime-parakeet-1")


async def test_the_heartbeat_moves_and_carries_the_state_of_the_moment(
    server: RedisProcess, reader: Redis
) -> None:
    state = Stated()
    async with registered(server.url, state):
        first = await told(reader, len)
        second = await told(reader, lambda hash_: hash_["last_heartbeat"] > first["last_heartbeat"])
        assert second["started_at"] == first["started_at"]
        state.now = replace(READY, status="busy", active_sessions=4)
        third = await told(reader, lambda hash_: hash_["status"] == "busy")
        assert third["active_sessions"] == "4"


async def test_a_change_is_told_without_waiting_for_the_next_heartbeat(
    server: RedisProcess, reader: Redis
) -> None:
    state = Stated()
    async with registered(server.url, state, heartbeat_s=3600.0) as registration:
        await told(reader, len)
        state.now = replace(READY, status="draining")
        registration.changed()
        assert (await told(reader, lambda hash_: hash_["status"] == "draining")).keys() == FIELDS


async def test_routers_hear_of_its_coming_and_going_and_nothing_is_left(
    server: RedisProcess, reader: Redis
) -> None:
    async with reader.pubsub() as events:
        await events.subscribe("dalston:realtime:events")
        assert await events.get_message(timeout=30)  # the subscription itself
        async with registered(server.url):
            came = await _event(events)
            await reader.sadd(f"{WORKER}:sessions", "sess_1")
        went = await _event(events)
    assert (came["type"], came["worker_id"]) == ("worker.registered", "realtime-parakeet-1")
    assert (came["endpoint"], came["capacity"]) == ("realtime-parakeet-1:9000", 4)
    assert (went["type"], went["worker_id"]) == ("worker.unregistered", "realtime-parakeet-1")
    assert await reader.keys("*") == []


async def _event(events: Any) -> dict[str, Any]:
    message = await events.get_message(ignore_subscribe_messages=True, timeout=30)
    return dict(json.loads(message["data"]))


async def test_a_redis_that_lost_everything_has_the_whole_hash_again(
    server: RedisProcess, reader: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    async with registered(server.url):
        before = await told(reader, len)
        await server.stop()
        await until(lambda: _is("not registered in Redis" in caplog.text))
        await server.start()
        after = await told(reader, len)
        assert after.keys() == FIELDS
        assert after["started_at"] == before["started_at"]
        assert await reader.sismember(SET, "realtime-parakeet-1")
    assert caplog.text.count("not registered in Redis") == 1, "one line for the whole outage"


async def test_a_hash_that_somebody_truncated_is_whole_again(server: RedisProcess, reader: Redis) -> None:
    async with registered(server.url):
        await told(reader, len)
        await reader.hdel(WORKER, "endpoint", "capacity")
        assert (await told(reader, lambda hash_: "endpoint" in hash_)).keys() == FIELDS


async def test_what_a_killed_predecessor_left_is_removed(server: RedisProcess, reader: Redis) -> None:
    await reader.hset(WORKER, "active_sessions", "3")
    await reader.hset(WORKER, "forgotten", "1")
    await reader.sadd(f"{WORKER}:sessions", "sess_1")
    async with registered(server.url):
        hash_ = await told(reader, lambda hash_: "endpoint" in hash_)
        assert hash_.keys() == FIELDS
        assert not await reader.exists(f"{WORKER}:sessions")


async def test_without_redis_the_engine_begins_serves_and_ends() -> None:
    async with asyncio.timeout(30):
        async with registered("redis://127.0.0.1:9", deadline_s=1.0):
            await asyncio.sleep(0)


async def test_a_redis_that_accepts_and_never_answers_holds_nothing_up() -> None:
    async def silent(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await closed.wait()
        writer.close()

    closed = asyncio.Event()
    listener = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    try:
        async with asyncio.timeout(30):
            async with registered(f"redis://127.0.0.1:{port}", deadline_s=0.2):
                await asyncio.sleep(0.1)
    finally:
        closed.set()
        listener.close()
        await listener.wait_closed()


async def test_another_prefix_keeps_two_registries_apart(server: RedisProcess, reader: Redis) -> None:
    async with registered(server.url, prefix="perch:eu"), registered(server.url):
        await told(reader, len)
        await until(lambda: reader.exists("perch:eu:worker:realtime-parakeet-1"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"worker_id": ""}, "worker id"),
        ({"endpoint": "two words:9000"}, "worker endpoint"),
        ({"url": "http://:secret@redis"}, "redis://, rediss:// or unix://"),
    ],
)
async def test_what_cannot_work_is_said_before_anything_runs(changes: dict[str, Any], message: str) -> None:
    wrong = replace(config("redis://127.0.0.1:9"), **changes)
    with pytest.raises(BadConfig, match=message) as caught:
        async with Registration(wrong, Stated()):
            pass
    assert "secret" not in caught.value.message


async def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def importing(name: str, *arguments: Any, **keywords: Any) -> Any:
        if name.startswith("redis"):
            raise ImportError(name)
        return real(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", importing)
    with pytest.raises(BadConfig, match=r"pip install 'perch-asr\[redis\]'"):
        async with registered("redis://127.0.0.1:9"):
            pass


async def test_an_engine_is_ready_then_busy_then_draining_and_offline_while_its_model_is_away() -> None:
    recogniser = ScriptedRecogniser(replace(CAPABILITIES, slots=1, aliases=("beeps",)))
    scheduler = Scheduler(recogniser, slots=1, timeout_s=5)
    assert state_of(recogniser, scheduler) == WorkerState(
        "ready", 1, 0, (CAPABILITIES.model, "beeps"), CAPABILITIES.languages
    )
    async with scheduler.lease(_ANY):
        busy = state_of(recogniser, scheduler)
        assert (busy.status, busy.active_sessions) == ("busy", 1)
        assert state_of(recogniser, scheduler, draining=True).status == "draining"
    await recogniser.aclose()
    assert state_of(recogniser, scheduler).status == "offline"


def test_the_drivers_answer_is_summed_over_the_gpus() -> None:
    assert parse("4301, 24576\n100, 81559\n") == GpuMemory(4401, 106_135)
    assert parse("[N/A], [N/A]\n7, 10\n") == GpuMemory(7, 10)
    assert parse("No devices were found\n") == GpuMemory()
    assert in_gigabytes(4301) == "4.2GB"


async def test_a_driver_is_asked_by_its_tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert await gpu_memory() == GpuMemory(), "no tool, no GPU"
    tool = tmp_path / "nvidia-smi"
    tool.write_text('#!/bin/sh\n[ "$1" = --query-gpu=memory.used,memory.total ] && echo "4301, 24576"\n')
    tool.chmod(0o755)
    assert await gpu_memory() == GpuMemory(4301, 24_576)
    tool.write_text("#!/bin/sh\necho 1, 2\nexit 9\n")
    assert await gpu_memory() == GpuMemory(), "a driver that failed said nothing"
