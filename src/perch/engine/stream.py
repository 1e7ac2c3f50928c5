"""One recognition stream, without its transport: a voice hears each utterance while it is spoken."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import assert_never

from perch.core.speech import Hypothesis, RecognitionConfig
from perch.engine.audio import RivaDecoder
from perch.engine.final import final_of
from perch.engine.hearing import Hearing
from perch.engine.voice import TimedDetector, TimedVoice
from perch.inference.endpointer import Begin, Decision, EarlyEnd, End, Endpointer

INTERMEDIATE_FINAL = 1.0
"""Stability of the partial that says "this may be the end", as Riva's two-pass end of utterance does."""


@dataclass(slots=True)
class _Utterance:
    """The utterance being heard: where it began, how far the voice has heard it, its text so far."""

    start: int
    heard: int
    text: str = ""


class RecognitionStream(Hearing):
    """Words while they are spoken.

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
        super().__init__(detector=detector, endpointer=endpointer, decoder=decoder, config=config)
        self._voice = voice
        self._utterance: _Utterance | None = None
        self._partial: Hypothesis | None = None

    # --- hearing

    async def _heard(self) -> int:
        if (ready := self._endpointer.ready) is not None:
            await self._listen(ready)
        return self._endpointer.needed_from

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
            self._say(final_of(recognition, self._config, start=utterance.start, end=at))

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

    def _take_answer(self) -> list[Hypothesis]:
        answer = super()._take_answer()
        if self._partial is not None:
            answer.append(self._partial)
            self._partial = None
        return answer
