"""One recognition over as many attempts as it takes.

``ResumableStream`` keeps the audio no final covers and hands it to one attempt after another. When an attempt
fails for a reason that may pass, the next one, on whatever endpoint the pool offers, is given that audio
again: no word is lost, none is said twice, and positions stay on the session's clock. The same road serves
three more needs: an engine that forgot an idle stream, a stream so old that it is replaced at the end of an
utterance, and an engine that never ends utterances itself.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace

from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception,
    stop_after_delay,
    wait_exponential_jitter,
)
from tenacity.stop import stop_base

from perch import errors
from perch.asr.attempt import Attempt
from perch.asr.base import Deliver, StreamState
from perch.asr.watch import Unwatched, Watch
from perch.core.audio import RATE, ms_to_samples, samples_to_bytes, samples_to_seconds, seconds_to_samples
from perch.core.messages import Notice
from perch.core.replay import ReplayWindow, WindowFull
from perch.core.speech import Hypothesis
from perch.core.timeline import Timeline
from perch.riva import wire

_MAX_REQUEST = 32_000
"""Bytes of audio per request when some has piled up: one second."""
_SOON_S = 2.0
_AFTER_WORD = ms_to_samples(300)
"""A final covers this much of the quiet after its last word, if its utterance lasted that long."""

OpenAttempt = Callable[[], AbstractAsyncContextManager[Attempt]]
"""Connects and configures a new attempt on an endpoint of the pool's choice."""


@dataclass(frozen=True, slots=True)
class StreamConfig:
    """Bounds of one recognition."""

    spool_bytes: int = 64 << 20
    """Audio accepted and not yet taken by an engine."""
    replay_s: float = 120.0
    """Audio kept after an engine took it, until a final covers it. What is older is lost to a failover."""
    outage_s: float = 30.0
    """How long to look for a working engine before giving up."""
    retry_delay_s: float = 0.1
    max_retry_delay_s: float = 2.0
    max_fruitless: int = 5
    """Interruptions in a row, each without any final and either soon or after the end of the audio: what breaks
    every engine, or is never finished by one, is given up."""
    replay_speed: float = 8.0
    """Replayed audio is sent at most this many times faster than real time."""
    full_s: float = 1.0
    """How long to look for a free slot when every engine is full."""
    recording_full_s: float = 60.0
    """The same for a recording, which nobody speaks and waits for."""
    rotate_after_s: float = 3600.0
    """Age at which an attempt is replaced by a fresh one, at the end of an utterance."""
    settle_after_s: float = 15.0
    """A partial that stays unchanged over so much more audio is taken for a final, and a new attempt begun."""


class _Interrupted(Exception):
    """An attempt that had been answered ended before its time; the next may begin at once."""

    def __init__(self, error: errors.EngineFault | None) -> None:
        super().__init__()
        self.error = error


class _StopWhenFull(stop_base):
    """A client that cannot be served for want of a slot should hear of it soon."""

    def __init__(self, after_s: float) -> None:
        self._after_s = after_s

    def __call__(self, retry_state: RetryCallState) -> bool:
        full = retry_state.outcome is not None and isinstance(
            retry_state.outcome.exception(), errors.EngineFull
        )
        return full and (retry_state.seconds_since_start or 0.0) > self._after_s


class ResumableStream:
    """An ``ASRStream`` over Riva-compatible engines."""

    def __init__(
        self,
        open_attempt: OpenAttempt,
        config: StreamConfig,
        state: StreamState | None = None,
        *,
        watch: Watch | None = None,
    ) -> None:
        self._open_attempt = open_attempt
        self._config = config
        self._watch = watch or Unwatched()
        self._sample_at = 0
        replay_bytes = samples_to_bytes(seconds_to_samples(config.replay_s))
        start = 0 if state is None else state.start
        self._window = ReplayWindow(config.spool_bytes, replay_bytes, start)
        if state is not None and state.audio:
            self._window.append(state.audio)
        self._finalize_at: deque[int] = deque()
        self._finalized: list[int] = []
        self._ended = False
        self._idle = False
        self._failed = False
        """Whether a failure was told and no engine has answered since."""
        self._more = asyncio.Event()
        self._direct: Attempt | None = None
        """The attempt whose writer waits with everything sent: more audio may be written past it."""
        self._taken = asyncio.Event()
        self._partial: Hypothesis | None = None
        self._partial_since = 0.0
        self.answered_at = 0.0
        self.answers = 0
        self._current: Attempt | None = None
        self._replay_until = self._window.end

    @property
    def lag(self) -> int:
        return self._window.waiting

    @property
    def spooled(self) -> int:
        """Bytes of audio held."""
        return self._window.size

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
        if self._direct is None or not self._write_now(self._direct, pcm):
            self._wake_writer()

    def finalize(self) -> None:
        self._finalize_at.append(self._window.end)
        self._wake_writer()

    def end(self) -> None:
        self._ended = True
        self._wake_writer()

    def state(self) -> StreamState:
        start = self._window.rewind()
        return StreamState(start, self._window.unfinalised())

    @property
    def unanswered(self) -> int:
        return 0 if self._current is None else max(0, self._current.requests - self._current.responses)

    async def room(self, samples: int) -> None:
        while self._window.waiting >= samples:
            self._taken.clear()
            await self._taken.wait()

    async def run(self, deliver: Deliver) -> None:
        fruitless = 0
        while True:
            began, covered = time.monotonic(), self._window.covered
            try:
                await self._until_answered(deliver)
                break
            except _Interrupted as interrupted:
                # While audio may still come, an engine that lasts for a while in silence is one that works.
                in_vain = self._ended or time.monotonic() - began < _SOON_S
                fruitless = fruitless + 1 if in_vain and self._window.covered == covered else 0
                if interrupted.error is not None:
                    if fruitless > self._config.max_fruitless:
                        raise interrupted.error from interrupted
                    self._announce(interrupted.error, deliver)
        self._settle(deliver)

    async def _until_answered(self, deliver: Deliver) -> None:
        """Make attempts, with back-off, until one is answered, and follow that one to its end.

        Raises:
            _Interrupted: It ended early.
            PerchError: None was answered in time, or the failure is not one that passes.
        """
        config = self._config
        attempts = AsyncRetrying(
            retry=retry_if_exception(_may_pass),
            stop=stop_after_delay(config.outage_s) | _StopWhenFull(config.full_s),
            wait=wait_exponential_jitter(
                multiplier=config.retry_delay_s, max=config.max_retry_delay_s, jitter=config.retry_delay_s
            ),
            reraise=True,
        )
        async for attempt in attempts:
            with attempt:
                await self._attempt(deliver)

    async def _attempt(self, deliver: Deliver) -> None:
        attempt: Attempt | None = None
        try:
            async with self._open_attempt() as attempt:
                await self._follow(attempt, deliver)
        except errors.EngineFault as error:
            if attempt is not None and attempt.responses and error.retryable:
                raise _Interrupted(error) from error
            raise

    async def _follow(self, attempt: Attempt, deliver: Deliver) -> None:
        """Write and read until the end of the stream, or until it is time for another attempt."""
        timeline = Timeline(self._begin(deliver))
        attempt.on_idle = self._wake
        self._current = attempt
        writing = asyncio.create_task(self._write(attempt, timeline))
        writing.add_done_callback(lambda task: _abort_if_broken(attempt, task))
        oldest = time.monotonic() + self._config.rotate_after_s
        try:
            while (hypotheses := await attempt.read()) is not None:
                self.answered_at = time.monotonic()
                self.answers += 1
                self._announce_recovery(deliver)
                for hypothesis in hypotheses:
                    self._hear(_placed(hypothesis, timeline), deliver)
                    if hypothesis.is_final and time.monotonic() > oldest and not self._ended:
                        raise _Interrupted(None)
                if self._partial is not None and self._is_stuck():
                    self._settle(deliver)
                    raise _Interrupted(None)
            if not self._ended or self._window.waiting:
                raise errors.EngineUnavailable("The speech engine ended the stream before the audio did.")
        finally:
            writing.cancel()
            await asyncio.wait([writing])

    def _begin(self, deliver: Deliver) -> int:
        """Go back to the first sample no final covers; what can no longer be replayed is said, not hidden."""
        self._replay_until = max(self._replay_until, self._window.sent)
        self._finalize_at.extendleft(
            mark for mark in reversed(self._finalized) if mark > self._window.covered
        )
        self._finalized.clear()
        if (again := self._window.sent - self._window.start) > 0:
            self._watch.replayed(again)
        lost_from, lost = self._window.covered, self._window.forgotten
        if lost:
            message = (
                f"{samples_to_seconds(lost):.1f} s of audio from {samples_to_seconds(lost_from):.1f} s on could "
                "not be recognised: the engine failed and they were no longer kept."
            )
            deliver(Notice("audio_lost", message))
            self._window.trim(self._window.start)
        return self._window.rewind()

    # --- what the engine says ------------------------------------------------------------------------

    def _hear(self, hypothesis: Hypothesis, deliver: Deliver) -> None:
        deliver(hypothesis)
        if hypothesis.is_final:
            self._partial = None
            self._window.trim(_covered(hypothesis))
        elif self._partial is None or self._partial.text != hypothesis.text:
            self._partial = hypothesis if hypothesis.text else None
            self._partial_since = time.monotonic()

    def _is_stuck(self) -> bool:
        """Whether the partial has not changed for so long that its final will not come."""
        assert self._partial is not None
        patience = self._config.settle_after_s
        if self._partial.end is None or time.monotonic() - self._partial_since < patience:
            return False
        return self._window.sent - self._partial.end > seconds_to_samples(patience)

    def _settle(self, deliver: Deliver) -> None:
        """The engine owes a final it will not give: the partial is all there is, so it is the final."""
        if self._partial is not None:
            self._hear(replace(self._partial, is_final=True), deliver)

    # --- what the engine is given --------------------------------------------------------------------

    async def _write(self, attempt: Attempt, timeline: Timeline) -> None:
        try:
            await self._write_until_end(attempt, timeline)
        except errors.PerchError:
            return  # the call is over, and read() raises the engine's own reason

    async def _write_until_end(self, attempt: Attempt, timeline: Timeline) -> None:
        window = self._window
        began, base = time.monotonic(), window.start
        while True:
            if window.sent < self._replay_until:
                await self._pace(began, window.sent - base)
            finalize_at = self._finalize_at[0] if self._finalize_at else None
            if finalize_at is not None and window.sent >= finalize_at:
                self._finalized.append(self._finalize_at.popleft())
                await attempt.write(wire.FORCE_EOU)
            elif pcm := window.take(_MAX_REQUEST, until=finalize_at):
                self._taken.set()
                if window.sent < self._sample_at:
                    await attempt.write(wire.audio_request(pcm))
                else:
                    await self._write_timed(attempt, wire.audio_request(pcm))
            elif self._ended:
                await attempt.half_close()
                return
            elif self._idle:
                self._idle = False
                timeline.insert(window.sent, RATE)
                await attempt.write(_SILENCE)
            else:
                self._more.clear()
                self._direct = attempt
                try:
                    await self._more.wait()
                finally:
                    self._direct = None

    def _write_now(self, attempt: Attempt, pcm: bytes) -> bool:
        """Write ``pcm``, the only audio not sent, without waking the task that writes: half of a frame's cost.

        Once a second of audio it is left to that task, which takes the time.
        """
        window = self._window
        if len(pcm) > _MAX_REQUEST or window.sent >= self._sample_at:
            return False
        if not attempt.write_now(wire.audio_request(pcm)):
            return False
        window.take(len(pcm))
        self._taken.set()
        return True

    def _wake_writer(self) -> None:
        """What comes after this is written by the task, in its order."""
        self._direct = None
        self._more.set()

    async def _write_timed(self, attempt: Attempt, request: bytes) -> None:
        """One message a second of audio is timed."""
        self._sample_at = self._window.sent + RATE
        began = time.monotonic()
        await attempt.write(request)
        self._watch.engine_write(time.monotonic() - began)

    def _announce(self, error: errors.EngineFault, deliver: Deliver) -> None:
        """Tell of a failover; an engine's forgetting an idle stream is not worth a word."""
        if not isinstance(error, errors.EngineIdle):
            self._watch.failover(error.code)
            deliver(Notice("engine_failover", "The speech engine failed; looking for one that works."))
            self._failed = True

    def _announce_recovery(self, deliver: Deliver) -> None:
        """Tell that an engine answers again; until then nobody knows."""
        if self._failed:
            self._failed = False
            deliver(Notice("engine_recovered", "Recognition goes on."))

    def _wake(self) -> None:
        """The engine has been given nothing for so long that it may forget the stream."""
        self._idle = True
        self._wake_writer()

    async def _pace(self, began: float, samples: int) -> None:
        """A replay may not outrun what an engine is built for."""
        due = began + samples / (RATE * self._config.replay_speed)
        if (ahead := due - time.monotonic()) > 0:
            await asyncio.sleep(ahead)


_SILENCE = wire.audio_request(bytes(samples_to_bytes(RATE)))


def _may_pass(error: BaseException) -> bool:
    return isinstance(error, errors.EngineFault) and error.retryable


def _abort_if_broken(attempt: Attempt, writing: asyncio.Task[None]) -> None:
    """A writer that dies of a defect must not leave the reader waiting for an answer."""
    if not writing.cancelled() and (defect := writing.exception()) is not None:
        attempt.abort(errors.InternalError("The gateway failed while sending audio."), defect)


def _covered(final: Hypothesis) -> int:
    """The position up to which a final accounts for the audio.

    Not the last word's end, where an engine would hear the word's last sound again, and not always where the
    engine had listened to, which may be inside the next word: a moment after the one, if the other allows.
    """
    if not final.words:
        return final.end or 0
    after = final.words[-1].end + _AFTER_WORD
    return after if final.end is None else max(final.words[-1].end, min(after, final.end))


def _placed(hypothesis: Hypothesis, timeline: Timeline) -> Hypothesis:
    """``hypothesis`` of an attempt on the session's clock."""
    if timeline.is_sessions:
        return hypothesis
    return replace(
        hypothesis,
        words=tuple(word.moved(timeline.to_session) for word in hypothesis.words),
        end=None if hypothesis.end is None else timeline.to_session(hypothesis.end),
    )
