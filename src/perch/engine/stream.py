"""One recognition stream, without its transport: audio messages in, hypotheses out.

Bytes become 16 kHz PCM, a detector says where speech may be, an endpointer cuts it into utterances, and
a voice turns each into text. All positions are on the stream's clock: samples from its first one,
silence included.
"""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import assert_never

from perch.core.audio import RATE, samples_to_bytes, samples_to_seconds
from perch.core.speech import Hypothesis, RecognitionConfig, Word
from perch.engine.audio import RivaDecoder
from perch.engine.voice import TimedDetector, TimedVoice
from perch.engine.window import PcmWindow
from perch.inference.endpointer import Begin, Decision, EarlyEnd, End, Endpointer
from perch.inference.recogniser import Recognition

PIECE = RATE // 2
"""Samples recognised at a time: no single wait for the voice is for more than half a second of audio."""

SLICE = 64 * 1024
"""Bytes decoded at a time: a message may be a whole file, and other streams want their turn."""

INTERMEDIATE_FINAL = 1.0
"""Stability of the partial that says "this may be the end", as Riva's two-pass end of utterance does."""


@dataclass(slots=True)
class _Utterance:
    """The utterance being heard: where it began, how far the voice has heard it, its text so far."""

    start: int
    heard: int
    text: str = ""


class RecognitionStream:
    """Feed it messages in order, then ``finish`` once. Never concurrently.

    Each answer holds the finals that became known, then at most one partial, which replaces all
    partials before it. What has not changed is not said again.
    """

    def __init__(
        self,
        *,
        voice: TimedVoice,
        detector: TimedDetector,
        endpointer: Endpointer,
        decoder: RivaDecoder,
        config: RecognitionConfig,
    ) -> None:
        self._voice = voice
        self._detector = detector
        self._endpointer = endpointer
        self._decoder = decoder
        self._config = config
        self._window = PcmWindow()
        self._utterance: _Utterance | None = None
        self._answer: list[Hypothesis] = []
        self._partial: Hypothesis | None = None
        self.finals = 0

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
        for part in slices(payload, SLICE):
            await self._hear(self._decoder.decode(part))
        if force_eou:
            await self._act(self._endpointer.close(0))
        return self._take_answer()

    async def finish(self) -> list[Hypothesis]:
        """The end of the stream: what is left, and an empty final if there was never another.

        Raises:
            BadAudio: The audio broke off inside its container.
            EngineFailed: The recogniser died, or did not answer in time.
        """
        await self._hear(self._decoder.flush())
        await self._act(self._endpointer.close(self._window.end))
        if not self.finals:
            self._say_final(
                Hypothesis("", is_final=True, end=self._window.end, language=self._config.language)
            )
        return self._take_answer()

    # --- hearing

    async def _hear(self, pcm: bytes) -> None:
        for piece in slices(pcm, samples_to_bytes(PIECE)):
            self._window.append(piece)
            probabilities = await self._detector.probabilities(piece)
            await self._act(self._endpointer.feed(probabilities))
            if (ready := self._endpointer.ready) is not None:
                await self._listen(ready)
            self._window.drop_before(self._endpointer.needed_from)
            await asyncio.sleep(0)  # a recogniser that never waits must not keep other streams waiting

    async def _act(self, decisions: Sequence[Decision]) -> None:
        for decision in decisions:
            match decision:
                case Begin(at):
                    self._utterance = _Utterance(start=at, heard=at)
                case EarlyEnd(at):
                    await self._listen(at)
                    self._say_partial(stability=INTERMEDIATE_FINAL)
                case End(at):
                    await self._end(at)
                case _:
                    assert_never(decision)

    async def _listen(self, until: int) -> None:
        """Let the voice hear the utterance up to ``until``, and say what that changes."""
        utterance = self._utterance
        if utterance is None or until <= utterance.heard:
            return
        text = await self._voice.feed(self._window.read(utterance.heard, until))
        utterance.heard = until
        if text is not None and text != utterance.text:
            utterance.text = text
            self._say_partial()

    async def _end(self, at: int) -> None:
        await self._listen(at)
        utterance, self._utterance, self._partial = self._utterance, None, None
        recognition = await self._voice.finish()
        if utterance is not None and recognition.text:
            self._say_final(final_of(recognition, self._config, start=utterance.start, end=at))

    # --- saying

    def _say_partial(self, *, stability: float = 0.0) -> None:
        if self._utterance is None or not self._utterance.text or not self._config.interim_results:
            return
        self._partial = Hypothesis(
            self._utterance.text,
            is_final=False,
            stability=stability,
            end=self._utterance.heard,
            language=self._config.language,
        )

    def _say_final(self, final: Hypothesis) -> None:
        self._answer.append(final)
        self.finals += 1

    def _take_answer(self) -> list[Hypothesis]:
        answer, self._answer = self._answer, []
        if self._partial is not None:
            answer.append(self._partial)
            self._partial = None
        return answer


def final_of(recognition: Recognition, config: RecognitionConfig, *, start: int, end: int) -> Hypothesis:
    """What is told of an utterance that lies from ``start`` to ``end`` on the stream's clock."""
    words = recognition.words if config.word_times or config.character_times else ()
    if not config.character_times:
        words = tuple(replace(word, characters=()) for word in words)
    return Hypothesis(
        recognition.text,
        is_final=True,
        words=_on_clock(words, start=start, end=end),
        confidence=recognition.confidence,
        end=end,
        language=config.language,
    )


def slices(data: bytes, size: int) -> Iterator[bytes]:
    """``data`` in pieces of at most ``size`` bytes."""
    return (data[i : i + size] for i in range(0, len(data), size))


def _on_clock(words: tuple[Word, ...], *, start: int, end: int) -> tuple[Word, ...]:
    """An utterance's words on the stream's clock: in order, and none of them outside the utterance."""
    placed: list[Word] = []
    earliest = start
    for word in words:
        earliest = _place(word.start, start, earliest, end)
        placed.append(word.moved(partial(_place, start=start, earliest=earliest, latest=end)))
    return tuple(placed)


def _place(at: int, start: int, earliest: int, latest: int) -> int:
    return min(max(start + at, earliest), latest)
