"""A recording, without its transport: its utterances are recognised side by side, and told in their order.

Nobody waits for the next word of a recording, so an utterance is handed over when it is whole, and the next
one is looked for meanwhile. At most ``ahead`` of them are held, so that a recording of any length takes the
memory of a few.
"""

import asyncio
from collections import deque
from dataclasses import dataclass

from perch.core.audio import samples_to_bytes, samples_to_seconds
from perch.core.speech import Hypothesis, RecognitionConfig
from perch.engine.audio import RivaDecoder
from perch.engine.stream import PIECE, SLICE, final_of, slices
from perch.engine.voice import TimedDetector
from perch.engine.window import PcmWindow
from perch.inference.endpointer import Begin, Decision, End, Endpointer
from perch.inference.recogniser import Recognition, RecordingRecogniser


@dataclass(frozen=True, slots=True)
class _Pending:
    """An utterance that is being recognised, and where it lies."""

    start: int
    end: int
    task: asyncio.Task[Recognition]


class RecordingStream:
    """Feed it messages in order, then ``finish`` once, or ``aclose`` at any time. Never concurrently.

    It answers as ``RecognitionStream`` does, with finals only.
    """

    def __init__(
        self,
        *,
        recogniser: RecordingRecogniser,
        detector: TimedDetector,
        endpointer: Endpointer,
        decoder: RivaDecoder,
        config: RecognitionConfig,
    ) -> None:
        self._recogniser = recogniser
        self._detector = detector
        self._endpointer = endpointer
        self._decoder = decoder
        self._config = config
        self._ahead = 2 * recogniser.capabilities.recordings
        self._window = PcmWindow()
        self._start: int | None = None
        """Where the utterance that is open began: all of it is kept until it is whole."""
        self._pending: deque[_Pending] = deque()
        self._answer: list[Hypothesis] = []
        self.finals = 0

    @property
    def seconds(self) -> float:
        """How much audio has been heard."""
        return samples_to_seconds(self._window.end)

    async def feed(self, payload: bytes, *, force_eou: bool = False) -> list[Hypothesis]:
        """Take one message of audio, as the client encoded it; the finals that are known by now.

        Raises:
            BadAudio: The bytes are not the audio that was declared.
            EngineFailed: The recogniser died, or did not answer in time.
        """
        for part in slices(payload, SLICE):
            await self._hear(self._decoder.decode(part))
        if force_eou:
            await self._act(self._endpointer.close(0))
        while self._pending and self._pending[0].task.done():
            await self._take_first()
        return self._take_answer()

    async def finish(self) -> list[Hypothesis]:
        """The end of the recording: what is left, and an empty final if there was never another.

        Raises:
            BadAudio: The audio broke off inside its container.
            EngineFailed: The recogniser died, or did not answer in time.
        """
        await self._hear(self._decoder.flush())
        await self._act(self._endpointer.close(self._window.end))
        while self._pending:
            await self._take_first()
        if not self.finals:
            self._say(Hypothesis("", is_final=True, end=self._window.end, language=self._config.language))
        return self._take_answer()

    async def aclose(self) -> None:
        """Give up what is under way. Safe to call twice."""
        tasks = [pending.task for pending in self._pending]
        self._pending.clear()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _hear(self, pcm: bytes) -> None:
        for piece in slices(pcm, samples_to_bytes(PIECE)):
            self._window.append(piece)
            await self._act(self._endpointer.feed(await self._detector.probabilities(piece)))
            needed = self._endpointer.needed_from
            self._window.drop_before(needed if self._start is None else min(needed, self._start))
            await asyncio.sleep(0)  # a detector that never waits must not keep streams waiting

    async def _act(self, decisions: list[Decision]) -> None:
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

    def _say(self, final: Hypothesis) -> None:
        self._answer.append(final)
        self.finals += 1

    def _take_answer(self) -> list[Hypothesis]:
        answer, self._answer = self._answer, []
        return answer
