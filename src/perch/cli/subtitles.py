"""Finished segments as subtitles: SubRip and WebVTT."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from perch.core.audio import RATE, samples_to_ms
from perch.core.messages import Final
from perch.core.speech import Word

MAX_CHARACTERS = 84
"""Two lines of 42: what fits on a screen."""

MAX_SAMPLES = 7 * RATE
"""Seven seconds: what stays readable."""


@dataclass(frozen=True, slots=True)
class Cue:
    """A text and when it is shown, in samples."""

    start: int
    end: int
    text: str


def cues(segments: Iterable[Final]) -> list[Cue]:
    """The subtitles of ``segments``: split where they are too long to read, if word times allow."""
    return [cue for segment in segments if segment.text.strip() for cue in _of_segment(segment)]


def srt(segments: Iterable[Final]) -> str:
    """A SubRip file."""
    blocks = [
        f"{number}\n{_time(cue.start, ',')} --> {_time(cue.end, ',')}\n{cue.text}\n"
        for number, cue in enumerate(cues(segments), start=1)
    ]
    return "\n".join(blocks)


def vtt(segments: Iterable[Final]) -> str:
    """A WebVTT file."""
    blocks = [
        f"{_time(cue.start, '.')} --> {_time(cue.end, '.')}\n{_escape(cue.text)}\n" for cue in cues(segments)
    ]
    return "\n".join(["WEBVTT\n", *blocks])


def _of_segment(segment: Final) -> Iterator[Cue]:
    if not segment.words:
        yield Cue(segment.start, max(segment.end, segment.start + 1), segment.text.strip())
        return
    for words in _split(segment.words):
        yield Cue(words[0].start, max(words[-1].end, words[0].start + 1), _text(words))


def _split(words: Sequence[Word]) -> Iterator[list[Word]]:
    shown: list[Word] = []
    for word in words:
        if shown and not _fits([*shown, word]):
            yield shown
            shown = []
        shown.append(word)
    yield shown


def _fits(words: Sequence[Word]) -> bool:
    return len(_text(words)) <= MAX_CHARACTERS and words[-1].end - words[0].start <= MAX_SAMPLES


def _text(words: Sequence[Word]) -> str:
    return " ".join(word.text for word in words)


def _time(samples: int, decimal: str) -> str:
    seconds, milliseconds = divmod(samples_to_ms(samples), 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{seconds:02}{decimal}{milliseconds:03}"


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
