"""An engine makes itself known in Redis, so that a session router can find it and see that it lives.

::

    {prefix}:workers             set of the ids of all workers
    {prefix}:worker:{id}         hash: endpoint, status, capacity, active_sessions, gpu_memory_used,
                                 gpu_memory_total, models_loaded, languages_supported, last_heartbeat, started_at
    {prefix}:worker:{id}:sessions   a router's own; removed with the worker
    {prefix}:events              channel: worker.registered, worker.unregistered

Every heartbeat writes the whole hash, never a part of it: a Redis that lost its data has it back with the next
one, and nobody ever reads a worker without an endpoint. Redis is not needed to recognise: while it is away the
engine serves on.
"""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, Self

from perch.engine.gpu import GpuMemory, gpu_memory, in_gigabytes
from perch.engine.scheduler import Scheduler
from perch.errors import BadConfig
from perch.inference.recogniser import Recogniser

if TYPE_CHECKING:
    from redis.asyncio import Redis

log = logging.getLogger(__name__)

Status = Literal["ready", "busy", "draining", "offline"]

DEFAULT_PREFIX = "dalston:realtime"
FIRST_RETRY_S = 0.5
"""After a failed heartbeat; doubled with each further one, up to the heartbeat's interval."""


@dataclass(frozen=True, slots=True)
class RegistrationConfig:
    """Where an engine registers, and as whom."""

    url: str = field(repr=False)
    """``redis://…``, ``rediss://…`` or ``unix://…``; it may hold a password."""
    worker_id: str
    """Stable over restarts, and nobody else's."""
    endpoint: str
    """``host:port`` at which others reach this engine's gRPC."""
    prefix: str = DEFAULT_PREFIX
    heartbeat_s: float = 10.0
    deadline_s: float = 3.0
    """Longest wait for Redis, each time."""


@dataclass(frozen=True, slots=True)
class WorkerState:
    """What an engine says of itself with each heartbeat."""

    status: Status
    capacity: int
    active_sessions: int
    models: tuple[str, ...]
    languages: tuple[str, ...]


def state_of(recogniser: Recogniser, scheduler: Scheduler, *, draining: bool = False) -> WorkerState:
    """The state of an engine: ``offline`` while its model is being restarted, ``busy`` if every slot is taken."""
    can = recogniser.capabilities
    return WorkerState(
        status=_status(recogniser, scheduler, draining=draining),
        capacity=_slots(recogniser, scheduler),
        active_sessions=scheduler.taken,
        models=(can.model, *can.aliases),
        languages=can.languages,
    )


class Registration:
    """``async with Registration(config, state):`` an engine is registered while the block runs.

    Entering does not wait for Redis. Leaving removes the engine from the registry, as far as Redis answers
    within its deadline; otherwise its heartbeat grows old.

    Args:
        config: Where, and as whom.
        state: Called with each heartbeat, on the event loop.
        memory: What the GPUs have in use.

    Raises:
        BadConfig: The extra is not installed, or ``config`` is not usable.
    """

    def __init__(
        self,
        config: RegistrationConfig,
        state: Callable[[], WorkerState],
        *,
        memory: Callable[[], Awaitable[GpuMemory]] = gpu_memory,
    ) -> None:
        self._config = config
        self._state = state
        self._memory = memory
        self._started_at = _now()
        self._is_announced = False
        self._failures = 0
        self._wake = asyncio.Event()
        self._is_ending = False
        self._redis = _connect(config)
        self._beating: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._beating = asyncio.create_task(self._beat_on(self._redis), name="registration")
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._beating is not None
        self._is_ending = True
        self._wake.set()
        try:
            await self._beating
            await self._tried(self._withdraw(self._redis))
        finally:
            with suppress(OSError):
                await self._redis.aclose()

    def changed(self) -> None:
        """The state is another one: say so now, not with the next heartbeat."""
        self._wake.set()

    # --- keeping it up

    async def _beat_on(self, redis: "Redis") -> None:
        while not self._is_ending:
            self._wake.clear()
            memory = await self._memory()
            problem = await self._tried(self._beat(redis, memory))
            self._note(problem)
            with suppress(TimeoutError):
                async with asyncio.timeout(self._pause()):
                    await self._wake.wait()

    def _pause(self) -> float:
        if not self._failures:
            return self._config.heartbeat_s
        return min(FIRST_RETRY_S * 2.0 ** min(self._failures - 1, 10), self._config.heartbeat_s)

    def _note(self, problem: str) -> None:
        """Into the log, the first of a row of failures and its end."""
        if problem and not self._failures:
            log.warning("not registered in Redis, serving on and trying again: %s", problem)
        elif self._failures and not problem:
            log.info("registered in Redis again")
        self._failures = self._failures + 1 if problem else 0

    async def _tried(self, work: Awaitable[None]) -> str:
        """Do ``work`` in time; what kept Redis from it, or nothing."""
        from redis.exceptions import RedisError  # noqa: PLC0415 an extra

        try:
            async with asyncio.timeout(self._config.deadline_s):
                await work
        except TimeoutError:
            return f"no answer within {self._config.deadline_s:g} s"
        except (RedisError, OSError) as error:
            return str(error) or type(error).__name__
        return ""

    # --- what is written

    async def _beat(self, redis: "Redis", memory: GpuMemory) -> None:
        keys, state = self._config, self._state()
        worker = f"{keys.prefix}:worker:{keys.worker_id}"
        async with redis.pipeline(transaction=True) as pipe:
            if not self._is_announced:  # what a killed predecessor of the same name left behind
                pipe.delete(worker, f"{worker}:sessions")
            pipe.sadd(f"{keys.prefix}:workers", keys.worker_id)
            pipe.hset(worker, mapping=self._hash(state, memory))
            *_, is_new, fields = await pipe.execute()
        if is_new or fields or not self._is_announced:
            about = {"endpoint": keys.endpoint, "capacity": state.capacity}
            await redis.publish(f"{keys.prefix}:events", self._event("worker.registered", **about))
            self._is_announced = True

    async def _withdraw(self, redis: "Redis") -> None:
        keys = self._config
        worker = f"{keys.prefix}:worker:{keys.worker_id}"
        async with redis.pipeline(transaction=True) as pipe:
            pipe.srem(f"{keys.prefix}:workers", keys.worker_id)
            pipe.delete(worker, f"{worker}:sessions")
            pipe.publish(f"{keys.prefix}:events", self._event("worker.unregistered"))
            await pipe.execute()

    def _hash(
        self, state: WorkerState, memory: GpuMemory
    ) -> dict[Any, str]:  # Any: redis-py's keys are invariant
        return {
            "endpoint": self._config.endpoint,
            "status": state.status,
            "capacity": str(state.capacity),
            "active_sessions": str(state.active_sessions),
            "gpu_memory_used": in_gigabytes(memory.used),
            "gpu_memory_total": in_gigabytes(memory.total),
            "models_loaded": json.dumps(state.models),
            "languages_supported": json.dumps(state.languages),
            "last_heartbeat": _now(),
            "started_at": self._started_at,
        }

    def _event(self, kind: str, **more: object) -> str:
        return json.dumps({"type": kind, "worker_id": self._config.worker_id, **more, "timestamp": _now()})


def _status(recogniser: Recogniser, scheduler: Scheduler, *, draining: bool) -> Status:
    if draining:
        return "draining"
    if not recogniser.healthy:
        return "offline"
    return "busy" if scheduler.taken >= _slots(recogniser, scheduler) else "ready"


def _slots(recogniser: Recogniser, scheduler: Scheduler) -> int:
    """A model that was restarted may have fewer than the engine began with."""
    return min(scheduler.slots, recogniser.capabilities.slots)


def _connect(config: RegistrationConfig) -> "Redis":
    """A client, which connects when it is first used.

    Raises:
        BadConfig: Registering is not possible like this; the message says what to do.
    """
    for name, value in (("worker id", config.worker_id), ("worker endpoint", config.endpoint)):
        if not value or any(character.isspace() for character in value):
            raise BadConfig(f"Registering in Redis needs a {name}, without spaces; it is {value!r}.")
    try:
        from redis.asyncio import Redis  # noqa: PLC0415 an extra
    except ImportError as error:
        raise BadConfig("Registering in Redis needs the extra: pip install 'perch-asr[redis]'.") from error
    options: dict[str, Any] = {
        "socket_timeout": config.deadline_s,
        "socket_connect_timeout": config.deadline_s,
    }
    try:
        return Redis.from_url(config.url, decode_responses=True, **options)
    except ValueError as error:  # its own text may hold the password
        raise BadConfig("The address of Redis must begin with redis://, rediss:// or unix://.") from error


def _now() -> str:
    return datetime.now(UTC).isoformat()
