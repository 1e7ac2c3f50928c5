"""Hypotheses of an engine → segments of a session: numbered, on one clock, never repeated.

A segment is one utterance: partials replace each other until its final. An engine that starts over after
a failure may say a final again; it is recognised by position, not by text, and dropped.
"""

from dataclasses import dataclass

from perch.core.messages import Final, Partial, SpeechStarted, UtteranceEnd
from perch.core.speech import Hypothesis

TranscriptEvent = Partial | Final | SpeechStarted | UtteranceEnd


@dataclass(frozen=True, slots=True)
class TranscriptState:
    """A transcript so far, for a session that goes on in another process."""

    segments: int = 0
    covered: int = 0
    texts: tuple[str, ...] = ()
    shown: str = ""
    speaking: bool = False


class Transcript:
    """The transcript of one session, built hypothesis by hypothesis."""

    def __init__(self, state: TranscriptState | None = None) -> None:
        state = state or TranscriptState()
        self.segments = state.segments
        """Segments finished so far; also the number of the current one."""
        self.covered = state.covered
        """The position up to which finals account for the audio."""
        self._texts = list(state.texts)
        self._shown = state.shown
        self._speaking = state.speaking

    def state(self) -> TranscriptState:
        return TranscriptState(self.segments, self.covered, tuple(self._texts), self._shown, self._speaking)

    @property
    def text(self) -> str:
        """All finals, in order."""
        return " ".join(self._texts)

    def receive(self, hypothesis: Hypothesis) -> list[TranscriptEvent]:
        """Return what ``hypothesis`` changes, in the order a client should hear of it."""
        if hypothesis.is_final:
            return self._final(hypothesis)
        return self._partial(hypothesis)

    def _partial(self, hypothesis: Hypothesis) -> list[TranscriptEvent]:
        if hypothesis.text == self._shown:
            return []
        end = max(self.covered, hypothesis.end or 0)
        start = hypothesis.words[0].start if hypothesis.words else self.covered
        self._shown = hypothesis.text
        partial = Partial(self.segments, hypothesis.text, max(start, self.covered), end, hypothesis.stability)
        return [*self._speech_started(end), partial]

    def _final(self, hypothesis: Hypothesis) -> list[TranscriptEvent]:
        if self._is_repeated(hypothesis):
            return []
        if not hypothesis.text and not self._shown:
            return []  # nothing was said and nothing was shown: nothing to tell
        words = hypothesis.words
        start = words[0].start if words else self.covered
        end = words[-1].end if words else max(self.covered, hypothesis.end or 0)
        final = Final(
            self.segments, hypothesis.text, start, end, words, hypothesis.confidence, hypothesis.language
        )
        events = [*self._speech_started(start), final, UtteranceEnd(self.segments, end)]
        self._finish_segment(hypothesis.text, end)
        return events

    def _is_repeated(self, hypothesis: Hypothesis) -> bool:
        end = hypothesis.words[-1].end if hypothesis.words else hypothesis.end
        return end is not None and self.segments > 0 and end <= self.covered

    def _speech_started(self, at: int) -> list[TranscriptEvent]:
        if self._speaking:
            return []
        self._speaking = True
        return [SpeechStarted(self.segments, at)]

    def _finish_segment(self, text: str, end: int) -> None:
        if text:
            self._texts.append(text)
        self.segments += 1
        self.covered = max(self.covered, end)
        self._shown = ""
        self._speaking = False
