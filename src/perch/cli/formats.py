"""A finished transcript as text, JSON, SubRip or WebVTT."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson

from perch.cli import subtitles
from perch.core.audio import samples_to_seconds
from perch.core.messages import Final
from perch.core.speech import Word

Writer = Callable[[str, Sequence[Final]], str]


def text(_: str, segments: Sequence[Final]) -> str:
    """One line per segment."""
    return "".join(f"{segment.text.strip()}\n" for segment in segments if segment.text.strip())


def json(name: str, segments: Sequence[Final]) -> str:
    """One object on one line, times in seconds."""
    document = {
        "file": name,
        "text": " ".join(segment.text.strip() for segment in segments if segment.text.strip()),
        "segments": [_segment(segment) for segment in segments],
    }
    return orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE).decode()


def _segment(segment: Final) -> dict[str, Any]:
    return {
        "start": _seconds(segment.start),
        "end": _seconds(segment.end),
        "text": segment.text.strip(),
        "confidence": segment.confidence,
        "words": [_word(word) for word in segment.words],
    }


def _word(word: Word) -> dict[str, Any]:
    described = {
        "word": word.text,
        "start": _seconds(word.start),
        "end": _seconds(word.end),
        "confidence": word.confidence,
    }
    return described if word.speaker is None else {**described, "speaker": word.speaker}


def _seconds(samples: int) -> float:
    return round(samples_to_seconds(samples), 3)


WRITERS: Mapping[str, Writer] = {
    "text": text,
    "json": json,
    "srt": lambda _, segments: subtitles.srt(segments),
    "vtt": lambda _, segments: subtitles.vtt(segments),
}

SUFFIXES = {"text": ".txt", "json": ".json", "srt": ".srt", "vtt": ".vtt"}
