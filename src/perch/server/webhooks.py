"""Transcripts posted to an address of the operator's: in order, signed, and again until they are taken.

One task owns the address. Finals are kept, within a bound, while the receiver is away; what goes beyond the bound
is counted and logged, oldest first. Partials are not sent unless asked for, and never kept.

The signature is ``t=UNIX_TIME,v1=HEX``: HMAC-SHA256 of ``UNIX_TIME.BODY`` with the shared secret. A receiver may
see a batch twice, with the same ``Idempotency-Key``.
"""

import asyncio
import hashlib
import hmac
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import aiohttp
import orjson
import structlog
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception_type,
    stop_when_event_set,
    wait_exponential_jitter,
)

from perch.core.messages import Done, Event, Failed, Final, Partial
from perch.server.config import WebhookConfig

log = structlog.get_logger(__name__)

_BATCH = 100
_MOST = 10_000


class _NotTaken(Exception):
    """The receiver did not answer with success."""


class Webhooks:
    """The queue to one address, and the task that empties it."""

    def __init__(self, config: WebhookConfig) -> None:
        self._config = config
        self._events: deque[dict[str, Any]] = deque()
        self._more = asyncio.Event()
        self.dropped = 0

    def wants(self, event: Event) -> bool:
        """Whether ``event`` is posted."""
        if not self._config.url:
            return False
        return isinstance(event, Final | Done | Failed) or (
            self._config.partials and isinstance(event, Partial) and len(self._events) < _BATCH
        )

    def post(self, body: dict[str, Any]) -> None:
        """Queue an event; never waits."""
        self._events.append(body)
        if len(self._events) > _MOST:
            self._events.popleft()
            self.dropped += 1
            log.warning("webhook_overflow", dropped=self.dropped)
        self._more.set()

    @asynccontextmanager
    async def delivering(self) -> AsyncIterator[None]:
        """Deliver while the block runs, then for a moment what is left."""
        if not self._config.url:
            yield
            return
        leaving = asyncio.Event()
        delivering = asyncio.create_task(self._deliver(leaving), name="webhooks")
        try:
            yield
        finally:
            leaving.set()
            self._more.set()
            await asyncio.wait([delivering], timeout=self._config.deadline_s)
            delivering.cancel()
            with suppress(asyncio.CancelledError):
                await delivering
            if self._events:
                log.warning("webhook_undelivered", events=len(self._events))

    async def _deliver(self, leaving: asyncio.Event) -> None:
        timeout = aiohttp.ClientTimeout(total=self._config.deadline_s)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            while self._events or not leaving.is_set():
                await self._more.wait()
                while self._events:
                    batch = [self._events[i] for i in range(min(_BATCH, len(self._events)))]
                    await self._send(session, batch, leaving)
                    for _ in batch:
                        self._events.popleft()
                if not leaving.is_set():
                    self._more.clear()

    async def _send(
        self, session: aiohttp.ClientSession, batch: list[dict[str, Any]], leaving: asyncio.Event
    ) -> None:
        body = orjson.dumps({"events": batch})
        key = hashlib.sha256(body).hexdigest()[:32]
        attempts = AsyncRetrying(
            retry=retry_if_exception_type((_NotTaken, aiohttp.ClientError, TimeoutError, OSError)),
            wait=wait_exponential_jitter(
                multiplier=self._config.retry_s, max=60.0, jitter=self._config.retry_s
            ),
            stop=stop_when_event_set(leaving),  # type: ignore[arg-type]  # any event with is_set will do
            before_sleep=_report,
            reraise=True,
        )
        async for attempt in attempts:
            with attempt:
                headers = {
                    "Content-Type": "application/json",
                    "Idempotency-Key": key,
                    "Perch-Signature": signature(self._config.secret, body, int(time.time())),
                }
                async with session.post(
                    self._config.url, data=body, headers=headers, allow_redirects=False
                ) as answer:
                    if not 200 <= answer.status < 300:
                        raise _NotTaken(f"status {answer.status}")


def _report(state: RetryCallState) -> None:
    error = None if state.outcome is None else state.outcome.exception()
    problem = str(error) if isinstance(error, _NotTaken) else type(error).__name__
    log.warning("webhook_failed", problem=problem, attempt=state.attempt_number)


def signature(secret: str, body: bytes, at: int) -> str:
    """What the header ``Perch-Signature`` says of ``body``."""
    digest = hmac.new(secret.encode(), f"{at}.".encode() + body, hashlib.sha256)
    return f"t={at},v1={digest.hexdigest()}"
