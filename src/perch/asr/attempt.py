"""One streaming call on one connection: write, read, half-close, and every failure as a ``PerchError``.

A call that makes no progress is ended by ``check``, which the client calls a few times a second for all
its attempts together, so that no frame pays for a timer.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from perch import errors
from perch.asr.call import Call
from perch.core.speech import Hypothesis
from perch.riva import convert
from perch.riva.proto import asr


@dataclass(frozen=True, slots=True)
class AttemptTimeouts:
    """How long a call may make no progress, in seconds. There is no limit on its whole length."""

    connect_s: float = 5.0
    write_s: float = 30.0
    """For the engine to take one message, once connected."""
    first_response_s: float = 30.0
    """From the first audio to any response at all."""
    response_s: float = 60.0
    """From audio to any response, once there was one."""
    finish_s: float = 60.0
    """Between responses once the audio has ended."""
    idle_s: float = 20.0
    """Without audio, until ``on_idle`` is called: Riva forgets a stream after 60 s of nothing."""


class Attempt:
    """One call. One task may write while another reads.

    Args:
        call: The call, not yet connected.
        timeouts: How long it may make no progress.
        diarized: Whether speaker tags mean anything.
        nothing_new: The serialised response that says so: most are, and need no parsing.
        on_answered: Called with the first response.
    """

    def __init__(
        self,
        call: Call,
        timeouts: AttemptTimeouts,
        *,
        diarized: bool,
        nothing_new: bytes = b"",
        on_answered: Callable[[], None] = lambda: None,
    ) -> None:
        self.requests = -1  # the first is the configuration, which is not answered
        self.responses = 0
        self.on_idle: Callable[[], None] = lambda: None
        self._call = call
        self._timeouts = timeouts
        self._diarized = diarized
        self._nothing_new = nothing_new
        self._on_answered = on_answered
        self._failure: errors.PerchError | None = None
        self._writing_since: float | None = None
        self._waiting_since: float | None = None
        self._half_closed = False
        self._written_at = time.monotonic()

    async def open(self, config_request: bytes) -> None:
        """Connect and send the configuration."""
        try:
            async with asyncio.timeout(self._timeouts.connect_s):
                await self._call.connect()
        except TimeoutError as error:
            raise errors.EngineUnavailable(
                "The speech engine did not accept a connection in time."
            ) from error
        except (errors.PerchError, asyncio.CancelledError) as error:
            raise self._reason(error) from error.__cause__
        await self.write(config_request)

    async def write(self, request: bytes) -> None:
        """Send one serialised request, waiting as long as the engine's flow control does."""
        self._writing_since = time.monotonic()
        try:
            await self._call.write(request)
        except (errors.PerchError, asyncio.CancelledError) as error:
            raise self._reason(error) from error.__cause__
        finally:
            self._writing_since = None
        self._written()

    def write_now(self, request: bytes) -> bool:
        """Send one serialised request if that needs no waiting; False, with nothing sent, if it does."""
        if self._writing_since is not None or not self._call.write_now(request):
            return False
        self._written()
        return True

    def _written(self) -> None:
        self.requests += 1
        self._written_at = time.monotonic()
        if self._waiting_since is None:
            self._waiting_since = self._written_at

    async def half_close(self) -> None:
        """Tell the engine that no audio will follow."""
        self._half_closed = True
        self._waiting_since = time.monotonic()
        try:
            await self._call.half_close()
        except (errors.PerchError, asyncio.CancelledError) as error:
            raise self._reason(error) from error.__cause__

    async def read(self) -> list[Hypothesis] | None:
        """The next response's hypotheses (often none), or None at the end of the stream."""
        try:
            response = await self._call.read()
        except (errors.PerchError, asyncio.CancelledError) as error:
            raise self._reason(error) from error.__cause__
        if response is None:
            return None
        self.responses += 1
        if self.responses == 1:
            self._on_answered()
        self._waiting_since = time.monotonic() if self._half_closed else None
        if response == self._nothing_new or not response:
            return []
        return convert.hypotheses_from_proto(
            asr.StreamingRecognizeResponse.FromString(response), diarized=self._diarized
        )

    def check(self, now: float) -> None:
        """Fail the call if it has made no progress for too long; say so if it has been idle."""
        if self._writing_since is not None and now - self._writing_since > self._timeouts.write_s:
            self.abort(errors.EngineTimeout("The speech engine stopped taking audio."))
        elif self._waiting_since is not None and now - self._waiting_since > self._patience():
            self.abort(errors.EngineTimeout("The speech engine stopped answering."))
        elif now - self._written_at > self._timeouts.idle_s and not self._half_closed:
            self._written_at = now
            self.on_idle()

    def cancel(self) -> None:
        """Free the call. Safe at any time, more than once."""
        self._call.cancel()

    def abort(self, error: errors.PerchError, cause: BaseException | None = None) -> None:
        """End the call with ``error``, which the reader raises."""
        if self._failure is None:
            error.__cause__ = cause
            self._failure = error
            self._call.cancel()

    def _patience(self) -> float:
        if self._half_closed:
            return self._timeouts.finish_s
        return self._timeouts.response_s if self.responses else self._timeouts.first_response_s

    def _reason(self, error: errors.PerchError | asyncio.CancelledError) -> BaseException:
        """What ``abort`` was given, in place of what it did to the call.

        A call we cancelled looks like a cancelled task from inside it.
        """
        return self._failure or error
