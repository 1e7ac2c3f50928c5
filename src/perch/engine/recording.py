"""A recording, without its transport: its utterances are recognised side by side, and told in their order.

Nobody waits for the next word of a recording, so an utterance is handed over when it is whole, and the next
one is looked for meanwhile. At most ``ahead`` of them are held, so that a recording of any length takes the
memory of a few.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from perch.core.speech import RecognitionConfig
from perch.engine.audio import RivaDecoder
from perch.engine.final import final_of
from perch.engine.hearing import Hearing
from perch.engine.voice import TimedDetector
from perch.inference.endpointer import Begin, Decision, End, Endpointer
from perch.inference.recogniser import Recognition, RecordingRecogniser


@dataclass(frozen=True, slots=True)
class _Pending:
    """An utterance that is being recognised, and where it lies."""

    start: int
    end: int
    task: asyncio.Task[Recognition]


class RecordingStream(Hearing):
    """Answers as ``RecognitionStream`` does, with finals only. ``aclose`` ends it at any time."""

    def __init__(
        self,
        *,
        recogniser: RecordingRecogniser,
        detector: TimedDetector,
        endpointer: Endpointer,
        decoder: RivaDecoder,
        config: RecognitionConfig,
    ) -> None:
        super().__init__(detector=detector, endpointer=endpointer, decoder=decoder, config=config)
        self._recogniser = recogniser
        self._ahead = 2 * recogniser.capabilities.recordings
        self._start: int | None = None
        """Where the utterance that is open began: all of it is kept until it is whole."""
        self._pending: deque[_Pending] = deque()

    async def aclose(self) -> None:
        """Give up what is under way. Safe to call twice."""
        tasks = [pending.task for pending in self._pending]
        self._pending.clear()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _heard(self) -> int:
        needed = self._endpointer.needed_from
        return needed if self._start is None else min(needed, self._start)

    async def _settle(self, *, to_the_end: bool) -> None:
        while self._pending and (to_the_end or self._pending[0].task.done()):
            await self._take_first()

    async def _act(self, decisions: Sequence[Decision]) -> None:
        for decision in decisions:
            if isinstance(decision, Begin):
                self._start = decision.at
            elif isinstance(decision, End) and self._start is not None:
                start, self._start = self._start, None
                await self._hand_over(start, decision.at)

    async def _hand_over(self, start: int, end: int) -> None:
        pcm = self._window.read(start, end)
        task = asyncio.create_task(self._recogniser.recognise(pcm), name="recorded utterance")
        self._pending.append(_Pending(start, end, task))
        while len(self._pending) > self._ahead:
            await self._take_first()

    async def _take_first(self) -> None:
        pending = self._pending[0]
        recognition = await pending.task
        self._pending.popleft()
        if recognition.text:
            self._say(final_of(recognition, self._config, start=pending.start, end=pending.end))
