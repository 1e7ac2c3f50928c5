"""What was recognised of an utterance, as a final on the clock of its stream."""

from dataclasses import replace
from functools import partial

from perch.core.speech import Hypothesis, RecognitionConfig, Word
from perch.inference.recogniser import Recognition


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
