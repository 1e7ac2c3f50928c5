"""What streams and recordings have in common: bytes in, utterances found, hypotheses out. No transport.

Bytes become 16 kHz PCM, a detector says where speech may be, and an endpointer cuts it into utterances. All
positions are on the stream's clock: samples from its first one, silence included.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

from perch.core.audio import RATE, samples_to_bytes, samples_to_seconds
from perch.core.speech import Hypothesis, RecognitionConfig
from perch.engine.audio import RivaDecoder
from perch.engine.voice import TimedDetector
from perch.engine.window import PcmWindow
from perch.inference.endpointer import Decision, Endpointer

PIECE = RATE // 2
"""Samples heard at a time: no single wait for the recogniser is for more than half a second of audio."""

SLICE = 64 * 1024
"""Bytes decoded at a time: a message may be a whole file, and other streams want their turn."""


class Hearing(ABC):
    """Feed it messages in order, then ``finish`` once. Never concurrently.

    What becomes of an utterance is the subclass's: it is told where one begins and ends, and says what is
    known of it.
    """

    def __init__(
        self,
        *,
        detector: TimedDetector,
        endpointer: Endpointer,
        decoder: RivaDecoder,
        config: RecognitionConfig,
    ) -> None:
        self._detector = detector
        self._endpointer = endpointer
        self._decoder = decoder
        self._config = config
        self._window = PcmWindow()
        self._finals: list[Hypothesis] = []
        """Those that were not told yet."""
        self.finals = 0
        """How many there were."""

    @property
    def seconds(self) -> float:
        """How much audio has been heard."""
        return samples_to_seconds(self._window.end)

    async def feed(self, payload: bytes, *, force_eou: bool = False) -> list[Hypothesis]:
        """Take one message of audio, as the client encoded it; with ``force_eou`` the utterance ends with it.

        Raises:
            BadAudio: The bytes are not the audio that was declared.
            EngineFailed: The recogniser died, or did not answer in time.
        """
        for part in _slices(payload, SLICE):
            await self._hear(self._decoder.decode(part))
        if force_eou:
            await self._act(self._endpointer.close(0))
        await self._settle(to_the_end=False)
        return self._take_answer()

    async def finish(self) -> list[Hypothesis]:
        """The end of the audio: what is left, and an empty final if there was never another.

        Raises:
            BadAudio: The audio broke off inside its container.
            EngineFailed: The recogniser died, or did not answer in time.
        """
        await self._hear(self._decoder.flush())
        await self._act(self._endpointer.close(self._window.end))
        await self._settle(to_the_end=True)
        if not self.finals:
            self._say(Hypothesis("", is_final=True, end=self._window.end, language=self._config.language))
        return self._take_answer()

    @abstractmethod
    async def _act(self, decisions: Sequence[Decision]) -> None:
        """Utterances begin and end; their audio is in the window."""

    @abstractmethod
    async def _heard(self) -> int:
        """A piece was heard; the first sample of the window that is still needed."""

    async def _settle(self, *, to_the_end: bool) -> None:  # noqa: B027 a stream has nothing to settle
        """Before an answer: say what became known meanwhile, or all that will ever be."""

    def _say(self, final: Hypothesis) -> None:
        self._finals.append(final)
        self.finals += 1

    def _take_answer(self) -> list[Hypothesis]:
        answer, self._finals = self._finals, []
        return answer

    async def _hear(self, pcm: bytes) -> None:
        for piece in _slices(pcm, samples_to_bytes(PIECE)):
            self._window.append(piece)
            await self._act(self._endpointer.feed(await self._detector.probabilities(piece)))
            self._window.drop_before(await self._heard())
            await asyncio.sleep(0)  # one that never waits must not keep other streams waiting


def _slices(data: bytes, size: int) -> Iterator[bytes]:
    """``data`` in pieces of at most ``size`` bytes."""
    return (data[i : i + size] for i in range(0, len(data), size))
