"""What a session was like: pure arithmetic on what was sent, what came back, and when."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from perch.quality.client import Heard
from perch.quality.manifest import Clip
from perch.quality.recording import Recording, frame_of
from perch.quality.stability import Rewrites, rewrites, words_of
from perch.quality.usage import Usage
from perch.quality.words import WordErrors, compare

Point = tuple[float, float]
Event = tuple[float, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Figures:
    """One clip, sent once. Times are seconds; None where there was nothing to measure.

    Args:
        clip: Which one.
        repeat: The how-manieth time, from 1.
        audio_s: Its length.
        sample_rate: As it was sent.
        encoding: As it was sent.
        text: All finals.
        words: Against what was said.
        first_partial_s: From sending the audio that the first partial with words covers to receiving it.
        first_words_s: From sending the beginning of speech to receiving that partial.
        gaps_s: Between one partial and the next of the same segment.
        final_s: From sending the end of speech to receiving the last final with words.
        rewrites: How many words that were shown did not last.
        hallucinated: Words shown although nothing was said; None where something was.
        partials: Where each partial ends in the audio, and how long after sending that it came.
        usage: What the server used meanwhile; None if other clips shared it or nobody could say.
        failure: Why the session did not end well, or empty.
    """

    clip: Clip
    repeat: int
    audio_s: float
    sample_rate: int
    encoding: str
    text: str = ""
    words: WordErrors = field(default_factory=WordErrors)
    first_partial_s: float | None = None
    first_words_s: float | None = None
    gaps_s: tuple[float, ...] = ()
    final_s: float | None = None
    rewrites: Rewrites = field(default_factory=Rewrites)
    hallucinated: int | None = None
    partials: tuple[Point, ...] = ()
    usage: Usage | None = None
    failure: str = ""

    @property
    def name(self) -> str:
        return self.clip.name if self.repeat == 1 else f"{self.clip.name} #{self.repeat}"

    @property
    def has_speech(self) -> bool:
        return self.hallucinated is None


def measure(clip: Clip, recording: Recording, heard: Heard, *, repeat: int, usage: Usage | None) -> Figures:
    """The figures of one session."""
    finals = [(at, event) for at, event in heard.of("final") if event["text"]]
    partials = [(at, event) for at, event in heard.of("partial") if event["text"]]
    text = " ".join(event["text"] for _, event in finals)
    segments = _segments(heard.of("partial", "final"))
    latencies = [(event["end"], at - sent) for at, event in partials if (sent := _sent(heard, event["end"]))]
    return Figures(
        clip=clip,
        repeat=repeat,
        audio_s=recording.duration_s,
        sample_rate=recording.sample_rate,
        encoding=recording.encoding,
        text=text,
        words=compare(clip.text, text),
        first_partial_s=latencies[0][1] if latencies else None,
        first_words_s=_since(heard, recording.speech_start_s, partials[:1]),
        gaps_s=_gaps(partials),
        final_s=_since(heard, recording.speech_end_s, finals[-1:]),
        rewrites=rewrites(segments),
        hallucinated=None if clip.text.strip() else sum(_most_words(texts) for texts in segments),
        partials=tuple(latencies),
        usage=usage,
        failure=heard.failure,
    )


def percentile(values: Iterable[float], share: float) -> float | None:
    """The value that ``share`` percent are not above; None of nothing."""
    listed = list(values)
    return float(np.percentile(listed, share, method="higher")) if listed else None


def _segments(events: Sequence[Event]) -> list[list[str]]:
    """The texts of each segment, in the order they were shown."""
    texts: dict[tuple[int, int], list[str]] = {}
    for _, event in events:
        texts.setdefault((event.get("channel", 0), event.get("segment", 0)), []).append(event["text"])
    return list(texts.values())


def _most_words(texts: Sequence[str]) -> int:
    """A word counts once it was shown, even if it was taken back."""
    return max(len(words_of(text)) for text in texts)


def _gaps(partials: Sequence[Event]) -> tuple[float, ...]:
    return tuple(
        later - sooner
        for (sooner, first), (later, second) in pairwise(partials)
        if first.get("segment") == second.get("segment")
    )


def _since(heard: Heard, position: float, events: Sequence[Event]) -> float | None:
    """From sending the audio at ``position`` to the one event, if there is one and it came after that."""
    sent = _sent(heard, position)
    if not events or sent is None or events[0][0] < sent:
        return None
    return events[0][0] - sent


def _sent(heard: Heard, position: float) -> float | None:
    """When the audio up to ``position`` had been sent."""
    return heard.sent[min(frame_of(position), len(heard.sent) - 1)] if heard.sent else None
