"""When what ``Finalize`` asked for has been said.

Engines do not confirm a forced end of utterance, and say nothing at all if there was no speech. So: the engine
has taken the audio up to the mark, and then either every utterance that began before the mark has its final,
or none began and nothing comes for a moment.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress

from perch.asr.base import ASRStream
from perch.core.audio import RATE
from perch.core.transcript import Transcript

_QUIET_S = 0.7
"""An engine that has answered nothing for so long has nothing to say."""
_SETTLED_S = 2.0
"""Nor has one that answers, but of no utterance, for so long."""
_BUSY_S = 5.0
"""One that has not answered every request up to the mark is at work on them, but not for so long."""
_DEADLINE_S = 15.0
"""An engine that owes a final and is silent for so long will not say it soon; the client must not wait for ever."""
_NEAR = RATE // 10
"""An engine listens in blocks: it may have reached a mark but for the rest of one."""


class Confirmations:
    """Marks of one session, confirmed in order by ``confirm(mark)``."""

    def __init__(self, confirm: Callable[[int], None]) -> None:
        self._confirm = confirm
        self._marks: deque[int] = deque()
        self._heard = asyncio.Event()
        self._listened = 0
        self._work: asyncio.Task[None] | None = None

    @property
    def is_expected(self) -> bool:
        """Whether a client waits for one."""
        return bool(self._marks)

    def expect(self, mark: int, streams: Sequence[ASRStream], transcripts: Sequence[Transcript]) -> None:
        """The client has asked for the end of the utterance at ``mark``."""
        self._marks.append(mark)
        if self._work is None or self._work.done():
            self._work = asyncio.create_task(self._one_by_one(streams, transcripts), name="confirmations")

    def heard(self, position: int | None) -> None:
        """The engine has said something, having listened to ``position`` if it tells."""
        self._listened = max(self._listened, position or 0)
        self._heard.set()

    def all(self) -> None:
        """The engine has said everything."""
        self.cancel()
        while self._marks:
            self._confirm(self._marks.popleft())

    def cancel(self) -> None:
        if self._work is not None:
            self._work.cancel()

    async def _one_by_one(self, streams: Sequence[ASRStream], transcripts: Sequence[Transcript]) -> None:
        while self._marks:
            for stream in streams:
                await stream.room(1)
            await self._answered(self._marks[0], streams, transcripts)
            self._confirm(self._marks.popleft())

    async def _answered(
        self, mark: int, streams: Sequence[ASRStream], transcripts: Sequence[Transcript]
    ) -> None:
        since = settled_since = time.monotonic()
        due = [stream.answers + stream.unanswered for stream in streams]
        while True:
            now = time.monotonic()
            owed = any(transcript.owes_before(mark) for transcript in transcripts)
            is_busy = any(stream.answers < answers for stream, answers in zip(streams, due, strict=True))
            quiet_s = now - max(since, *(stream.answered_at for stream in streams))
            if owed or is_busy:
                settled_since = now
            if not owed and (
                self._listened >= mark - _NEAR
                or quiet_s >= (_BUSY_S if is_busy else _QUIET_S)
                or now - settled_since >= _SETTLED_S
            ):
                return
            if quiet_s >= _DEADLINE_S:
                return
            self._heard.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(_QUIET_S / 2):
                    await self._heard.wait()
