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
    texts: tuple[tuple[int, str], ...] = ()
    shown: str = ""
    segment: int | None = None
    since: int = 0


class SegmentNumbers:
    """Numbers segments 0, 1, … in the order they begin, over all channels of a session."""

    def __init__(self, following: int = 0) -> None:
        self.following = following

    def take(self) -> int:
        self.following += 1
        return self.following - 1


class Transcript:
    """The transcript of one channel, built hypothesis by hypothesis."""

    def __init__(
        self,
        state: TranscriptState | None = None,
        *,
        channel: int = 0,
        numbers: SegmentNumbers | None = None,
    ) -> None:
        state = state or TranscriptState()
        self.segments = state.segments
        """Segments finished so far."""
        self.covered = state.covered
        """The position up to which finals account for the audio."""
        self.channel = channel
        self._numbers = numbers or SegmentNumbers()
        self._texts = list(state.texts)
        self._shown = state.shown
        self._segment = state.segment
        self._since = state.since

    def state(self) -> TranscriptState:
        return TranscriptState(
            self.segments, self.covered, tuple(self._texts), self._shown, self._segment, self._since
        )

    @property
    def texts(self) -> list[tuple[int, str]]:
        """Every final's start and text, in order."""
        return list(self._texts)

    @property
    def text(self) -> str:
        """All finals, in order."""
        return " ".join(text for _, text in self._texts)

    def owes_before(self, position: int) -> bool:
        """Whether an utterance that began before ``position`` still waits for its final."""
        return self._segment is not None and self._since < position

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
        start = max(start, self.covered)
        events = self._speech_started(end, start)
        partial = Partial(
            self._current(), hypothesis.text, start, end, hypothesis.stability, channel=self.channel
        )
        return [*events, partial]

    def _final(self, hypothesis: Hypothesis) -> list[TranscriptEvent]:
        if self._is_repeated(hypothesis):
            return []
        if not hypothesis.text and not self._shown:
            return []  # nothing was said and nothing was shown: nothing to tell
        words = hypothesis.words
        start = words[0].start if words else self.covered
        end = words[-1].end if words else max(self.covered, hypothesis.end or 0)
        events = self._speech_started(start, start)
        segment = self._current()
        final = Final(
            segment,
            hypothesis.text,
            start,
            end,
            words,
            hypothesis.confidence,
            hypothesis.language,
            channel=self.channel,
            heard=max(end, hypothesis.end or 0),
        )
        self._finish_segment(hypothesis.text, start, end)
        return [*events, final, UtteranceEnd(segment, end, channel=self.channel)]

    def _is_repeated(self, hypothesis: Hypothesis) -> bool:
        end = hypothesis.words[-1].end if hypothesis.words else hypothesis.end
        return end is not None and self.segments > 0 and end <= self.covered

    def _current(self) -> int:
        assert self._segment is not None
        return self._segment

    def _speech_started(self, at: int, since: int) -> list[TranscriptEvent]:
        if self._segment is not None:
            return []
        self._segment, self._since = self._numbers.take(), since
        return [SpeechStarted(self._segment, at, channel=self.channel)]

    def _finish_segment(self, text: str, start: int, end: int) -> None:
        if text:
            self._texts.append((start, text))
        self.segments += 1
        self.covered = max(self.covered, end)
        self._shown = ""
        self._segment = None
