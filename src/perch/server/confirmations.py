"""When what ``Finalize`` asked for has been said.

Engines do not confirm a forced end of utterance, and say nothing at all if there was no speech. So: the engine
has taken the audio up to the mark, and then either every utterance that began before the mark has its final,
or none began and nothing comes for a moment.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence

from perch.asr.base import ASRStream
from perch.core.transcript import Transcript

_QUIET_S = 0.7
"""An engine that has said nothing for so long after the mark has nothing to say."""
_DEADLINE_S = 15.0


class Confirmations:
    """Marks of one session, confirmed in order by ``confirm(mark)``."""

    def __init__(self, confirm: Callable[[int], None]) -> None:
        self._confirm = confirm
        self._marks: deque[int] = deque()
        self._heard = asyncio.Event()
        self._work: asyncio.Task[None] | None = None

    def expect(self, mark: int, streams: Sequence[ASRStream], transcripts: Sequence[Transcript]) -> None:
        """The client has asked for the end of the utterance at ``mark``."""
        self._marks.append(mark)
        if self._work is None or self._work.done():
            self._work = asyncio.create_task(self._one_by_one(streams, transcripts), name="confirmations")

    def heard(self) -> None:
        """The engine has said something."""
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
            try:
                async with asyncio.timeout(_DEADLINE_S):
                    for stream in streams:
                        await stream.room(1)
                    await self._answered(self._marks[0], transcripts)
            except TimeoutError:
                pass  # an engine this slow will say it later; the client must not wait for ever
            self._confirm(self._marks.popleft())

    async def _answered(self, mark: int, transcripts: Sequence[Transcript]) -> None:
        owed = any(transcript.owes_before(mark) for transcript in transcripts)
        while True:
            self._heard.clear()
            try:
                async with asyncio.timeout(None if owed else _QUIET_S):
                    await self._heard.wait()
            except TimeoutError:
                return
            still = any(transcript.owes_before(mark) for transcript in transcripts)
            if owed and not still:
                return
            owed = still
