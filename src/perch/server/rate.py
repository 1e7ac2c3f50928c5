"""How much one caller may use in a minute, counted in this process or in Redis for several.

Redis is never waited for longer than a deadline, and an outage ends no session: until it is back, this
process counts by itself, or new sessions are refused if that is how it was set up.
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import structlog
from limits import RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage, RedisStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from limits.errors import ConfigurationError

from perch.errors import AtCapacity, BadConfig, RateLimited
from perch.server.config import RateConfig
from perch.server.principal import Principal

log = structlog.get_logger(__name__)

_T = TypeVar("_T")
_Limiter = SlidingWindowCounterRateLimiter
_MAX_ACCOUNTS = 10_000


class Counts:
    """Sliding windows by name, in Redis as long as it answers, else in this process."""

    def __init__(self, config: RateConfig, on_outage: Callable[[], None] = lambda: None) -> None:
        self._config = config
        self._on_outage = on_outage
        self._local = _Limiter(MemoryStorage())
        self._redis = _redis(config) if config.redis_url else None
        self._shared = None if self._redis is None else _Limiter(self._redis)
        self._failures: tuple[type[Exception], ...] = (TimeoutError, OSError, *_failures_of(self._redis))
        self._down_until = -math.inf
        self._is_down = False

    async def take(self, item: RateLimitItemPerMinute, name: str, cost: int) -> float | None:
        """Take ``cost`` out of the window, or all that is left of it and return the seconds to wait.

        Raises:
            AtCapacity: Nobody can say, and then nobody is let in.
        """
        return await self._ask(lambda limiter: _take(limiter, item, name, cost))

    async def wait_s(self, item: RateLimitItemPerMinute, name: str) -> float | None:
        """Seconds until there is something in the window again, or None if there is now.

        Raises:
            AtCapacity: Nobody can say, and then nobody is let in.
        """
        return await self._ask(lambda limiter: _wait_s(limiter, item, name))

    async def claim(self, name: str, ttl_s: int) -> bool | None:
        """Whether ``name`` is claimed for the first time anywhere; None if there is no Redis to ask."""
        redis = self._redis
        if redis is None:
            return None
        return await self._from_redis(lambda: _claim(redis, name, ttl_s))

    async def aclose(self) -> None:
        if self._redis is not None:
            await self._redis.bridge.get_connection().aclose()  # type: ignore[attr-defined]

    async def _ask(self, question: Callable[[_Limiter], Awaitable[_T]]) -> _T:
        shared = self._shared
        if shared is None:
            return await question(self._local)
        answer = await self._from_redis(lambda: _boxed(question(shared)))
        if answer is not None:
            return answer[0]
        if self._config.on_outage == "refuse":
            raise AtCapacity(
                "The gateway cannot check limits now; try again shortly.", retry_after=self._config.retry_s
            )
        return await question(self._local)

    async def _from_redis(self, ask: Callable[[], Awaitable[_T]]) -> _T | None:
        """The answer, or None while Redis is down; it is tried again only every so often."""
        now = time.monotonic()
        if now < self._down_until:
            return None
        try:
            async with asyncio.timeout(self._config.deadline_s):
                answer = await ask()
        except self._failures as error:
            self._lost(error)
            return None
        if self._is_down:
            self._is_down = False
            log.info("limits_shared_again")
        return answer

    def _lost(self, error: Exception) -> None:
        self._down_until = time.monotonic() + self._config.retry_s
        self._on_outage()
        if not self._is_down:
            self._is_down = True
            log.error("limits_not_shared", problem=type(error).__name__, on_outage=self._config.on_outage)


@dataclass(slots=True)
class _Account:
    owed: float = 0.0
    refused_until: float = -math.inf
    settling: asyncio.Task[None] | None = None


class RateLimits:
    """Requests and audio of each caller, per minute."""

    def __init__(self, config: RateConfig, counts: Counts) -> None:
        self._config = config
        self._counts = counts
        self._accounts: dict[str, _Account] = {}

    async def request(self, principal: Principal) -> None:
        """Count one request.

        Raises:
            RateLimited: There were too many within a minute.
            AtCapacity: Limits cannot be checked.
        """
        limit = principal.limits.requests_per_min or self._config.requests_per_min
        if limit is None:
            return
        wait_s = await self._counts.take(RateLimitItemPerMinute(limit), f"requests/{principal.name}", 1)
        if wait_s is not None:
            raise RateLimited(f"Only {limit} requests a minute are allowed.", retry_after=wait_s)

    async def admit(self, principal: Principal) -> None:
        """Let a session begin only if there is audio left to send in it.

        Raises:
            RateLimited: There is not.
            AtCapacity: Limits cannot be checked.
        """
        limit = self._audio_limit(principal)
        if limit is None:
            return
        wait_s = await self._counts.wait_s(RateLimitItemPerMinute(limit), f"audio/{principal.name}")
        if wait_s is not None:
            raise _too_much_audio(limit, wait_s)

    def spend(self, principal: Principal, audio_s: float) -> None:
        """Count audio that was accepted, without waiting: what is over the limit is refused the next time.

        Raises:
            RateLimited: The caller has sent more than it may within a minute.
        """
        limit = self._audio_limit(principal)
        if limit is None:
            return
        now = time.monotonic()
        account = self._account(principal.name, now)
        if account.refused_until > now:
            raise _too_much_audio(limit, account.refused_until - now)
        account.owed += audio_s
        if account.settling is None and account.owed >= 1.0:
            account.settling = asyncio.create_task(
                self._settle(principal.name, limit, account), name="rate-settle"
            )

    async def aclose(self) -> None:
        """Wait for what is being counted; no count takes longer than its deadline."""
        settling = [account.settling for account in self._accounts.values() if account.settling is not None]
        if settling:
            await asyncio.wait(settling, timeout=2 * self._config.deadline_s)

    def _audio_limit(self, principal: Principal) -> int | None:
        return principal.limits.audio_s_per_min or self._config.audio_s_per_min

    def _account(self, name: str, now: float) -> _Account:
        if name not in self._accounts and len(self._accounts) >= _MAX_ACCOUNTS:
            self._accounts = {
                name: account
                for name, account in self._accounts.items()
                if account.settling is not None or account.refused_until > now
            }
        return self._accounts.setdefault(name, _Account())

    async def _settle(self, name: str, limit: int, account: _Account) -> None:
        try:
            while account.owed >= 1.0:
                cost = int(account.owed)
                account.owed -= cost
                wait_s = await self._counts.take(RateLimitItemPerMinute(limit), f"audio/{name}", cost)
                if wait_s is not None:
                    account.refused_until = time.monotonic() + wait_s
                    account.owed = 0.0
        except AtCapacity:
            account.owed = 0.0  # limits that cannot be checked keep new sessions out, and end no open one
        finally:
            account.settling = None


def _too_much_audio(limit: int, wait_s: float) -> RateLimited:
    return RateLimited(f"Only {limit} seconds of audio a minute are allowed.", retry_after=wait_s)


async def _take(limiter: _Limiter, item: RateLimitItemPerMinute, name: str, cost: int) -> float | None:
    if await limiter.hit(item, name, cost=cost):
        return None
    # What did not fit was used all the same: take the rest, or coming back would always bring a little more.
    left = (await limiter.get_window_stats(item, name)).remaining
    if left:
        await limiter.hit(item, name, cost=left)
    return await _wait(limiter, item, name)


async def _wait_s(limiter: _Limiter, item: RateLimitItemPerMinute, name: str) -> float | None:
    return None if await limiter.test(item, name) else await _wait(limiter, item, name)


async def _wait(limiter: _Limiter, item: RateLimitItemPerMinute, name: str) -> float:
    return max(1.0, (await limiter.get_window_stats(item, name)).reset_time - time.time())


async def _claim(redis: RedisStorage, name: str, ttl_s: int) -> bool:
    return await redis.incr(f"perch-once/{name}", ttl_s) == 1


async def _boxed(answer: Awaitable[_T]) -> tuple[_T]:
    return (await answer,)


def _redis(config: RateConfig) -> RedisStorage:
    if not config.redis_url.startswith(("redis://", "rediss://", "redis+unix://")):
        raise BadConfig("PERCH_LIMITS_REDIS_URL must begin with redis://, rediss:// or redis+unix://.")
    try:
        return RedisStorage(
            f"async+{config.redis_url}",
            implementation="redispy",
            key_prefix="perch",
            socket_timeout=config.deadline_s,
            socket_connect_timeout=config.deadline_s,
        )
    except ConfigurationError as error:
        raise BadConfig("PERCH_LIMITS_REDIS_URL needs the extra: pip install 'perch-asr[redis]'.") from error
    except ValueError as error:
        raise BadConfig("PERCH_LIMITS_REDIS_URL is not the address of a Redis.") from error


def _failures_of(redis: RedisStorage | None) -> tuple[type[Exception], ...]:
    if redis is None:
        return ()
    kinds = redis.base_exceptions
    return kinds if isinstance(kinds, tuple) else (kinds,)
