"""One recognition over as many attempts as it takes.

``ResumableStream`` keeps the audio no final covers and hands it to one attempt after another. An attempt
that fails before the engine has said anything is repeated, with back-off, on whatever endpoint the pool
offers; positions stay on the session's clock whichever attempt they come from.
"""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace

from tenacity import (
    AsyncRetrying,
    retry_if_exception,
    stop_after_attempt,
    stop_after_delay,
    wait_exponential_jitter,
)

from perch import errors
from perch.asr.attempt import Attempt
from perch.asr.base import Deliver, StreamState
from perch.core.audio import samples_to_seconds
from perch.core.replay import ReplayWindow, WindowFull
from perch.core.speech import Hypothesis, Word
from perch.riva import wire

_MAX_REQUEST = 32_000
"""Bytes of audio per request when some has piled up: one second."""

OpenAttempt = Callable[[], AbstractAsyncContextManager[Attempt]]
"""Connects and configures a new attempt on an endpoint of the pool's choice."""


@dataclass(frozen=True, slots=True)
class StreamConfig:
    """Bounds of one recognition."""

    spool_bytes: int = 64 << 20
    max_attempts: int = 3
    retry_delay_s: float = 0.2
    max_retry_delay_s: float = 2.0
    retry_budget_s: float = 15.0


class ResumableStream:
    """An ``ASRStream`` over a Riva-compatible engine."""

    def __init__(
        self, open_attempt: OpenAttempt, config: StreamConfig, state: StreamState | None = None
    ) -> None:
        self._open_attempt = open_attempt
        self._config = config
        self._window = ReplayWindow(config.spool_bytes, 0 if state is None else state.start)
        if state is not None and state.audio:
            self._window.append(state.audio)
        self._finalize_at: list[int] = []
        self._ended = False
        self._more = asyncio.Event()
        self._taken = asyncio.Event()
        self._heard = False
        """True once an engine has answered; after that an attempt is not repeated blindly."""

    @property
    def lag(self) -> int:
        return self._window.waiting

    def send(self, pcm: bytes) -> None:
        if not pcm:
            return
        try:
            self._window.append(pcm)
        except WindowFull as full:
            waiting = samples_to_seconds(self._window.waiting)
            raise errors.LagExceeded(
                f"Recognition is {waiting:.0f} s behind and the spool is full; send audio at real-time pace.",
                retry_after=5.0,
            ) from full
        self._more.set()

    def finalize(self) -> None:
        self._finalize_at.append(self._window.end)
        self._more.set()

    def end(self) -> None:
        self._ended = True
        self._more.set()

    def state(self) -> StreamState:
        return StreamState(self._window.start, self._window.unfinalised())

    async def room(self, samples: int) -> None:
        while self._window.waiting >= samples:
            self._taken.clear()
            await self._taken.wait()

    async def run(self, deliver: Deliver) -> None:
        async for attempt in self._retries():
            with attempt:
                await self._attempt(deliver)

    def _retries(self) -> AsyncRetrying:
        config = self._config
        return AsyncRetrying(
            retry=retry_if_exception(self._may_retry),
            stop=stop_after_attempt(config.max_attempts) | stop_after_delay(config.retry_budget_s),
            wait=wait_exponential_jitter(
                multiplier=config.retry_delay_s, max=config.max_retry_delay_s, jitter=config.retry_delay_s
            ),
            reraise=True,
        )

    def _may_retry(self, error: BaseException) -> bool:
        return isinstance(error, errors.EngineFault) and error.retryable and not self._heard

    async def _attempt(self, deliver: Deliver) -> None:
        async with self._open_attempt() as attempt:
            base = self._window.rewind()
            writing = asyncio.create_task(self._write(attempt))
            writing.add_done_callback(lambda task: _abort_if_broken(attempt, task))
            try:
                while (hypotheses := await attempt.read()) is not None:
                    self._heard = True
                    for hypothesis in hypotheses:
                        placed = _placed(hypothesis, base)
                        deliver(placed)
                        if placed.is_final:
                            self._window.trim(_covered(placed))
                if not self._ended or self._window.waiting:
                    raise errors.EngineUnavailable("The speech engine ended the stream before the audio did.")
            finally:
                writing.cancel()
                await asyncio.wait([writing])

    async def _write(self, attempt: Attempt) -> None:
        try:
            await self._write_until_end(attempt)
        except errors.PerchError:
            return  # the call is over, and read() raises the engine's own reason

    async def _write_until_end(self, attempt: Attempt) -> None:
        window = self._window
        while True:
            finalize_at = self._finalize_at[0] if self._finalize_at else None
            if finalize_at is not None and window.sent >= finalize_at:
                self._finalize_at.pop(0)
                await attempt.write(wire.FORCE_EOU)
            elif pcm := window.take(_MAX_REQUEST, until=finalize_at):
                self._taken.set()
                await attempt.write(wire.audio_request(pcm))
            elif self._ended:
                await attempt.half_close()
                return
            else:
                self._more.clear()
                await self._more.wait()


def _abort_if_broken(attempt: Attempt, writing: asyncio.Task[None]) -> None:
    """A writer that dies of a defect must not leave the reader waiting for an answer."""
    if not writing.cancelled() and (defect := writing.exception()) is not None:
        attempt.abort(errors.InternalError("The gateway failed while sending audio."), defect)


def _covered(final: Hypothesis) -> int:
    """The position up to which a final accounts for the audio."""
    return final.words[-1].end if final.words else final.end or 0


def _placed(hypothesis: Hypothesis, base: int) -> Hypothesis:
    """``hypothesis`` of an attempt that began at ``base``, on the session's clock."""
    if base == 0:
        return hypothesis
    return replace(
        hypothesis,
        words=tuple(_moved(word, base) for word in hypothesis.words),
        end=None if hypothesis.end is None else hypothesis.end + base,
    )


def _moved(word: Word, base: int) -> Word:
    return replace(word, start=word.start + base, end=word.end + base)
