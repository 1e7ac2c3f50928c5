"""Words that are wrong: the rules of the Open ASR leaderboard, and what became of each word.

The normaliser is OpenAI's, published with Whisper and used by the leaderboard: lower case, no punctuation,
contractions written out, numbers in digits, American spelling, no "uh" and "um".
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Literal, cast

from perch.errors import BadConfig

Change = Literal["equal", "substitute", "delete", "insert"]

INSTALL = "pip install 'perch-asr[quality]'"


@dataclass(frozen=True, slots=True)
class Span:
    """Neighbouring words with the same fate: what was said, and what was understood."""

    change: Change
    said: str
    understood: str


@dataclass(frozen=True, slots=True)
class WordErrors:
    """Counts that can be added up, and where they come from."""

    words: int = 0
    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0
    spans: tuple[Span, ...] = ()

    @property
    def errors(self) -> int:
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float | None:
        """Errors per word that was said; None where nothing was."""
        return self.errors / self.words if self.words else None


def check_installed() -> None:
    """Raise ``BadConfig`` unless the packages for word error rates are there."""
    _normaliser()


def normalise(text: str) -> str:
    """``text`` as the leaderboard compares it."""
    return _normaliser()(text).strip()


def compare(said: str, understood: str) -> WordErrors:
    """Align two texts, each normalised first, with the fewest errors."""
    import jiwer  # noqa: PLC0415 an extra

    reference, hypothesis = normalise(said), normalise(understood)
    if not reference:
        words = len(hypothesis.split())
        return WordErrors(insertions=words, spans=(Span("insert", "", hypothesis),) if words else ())
    output = jiwer.process_words(reference, hypothesis)
    left, right = output.references[0], output.hypotheses[0]
    return WordErrors(
        words=len(left),
        substitutions=output.substitutions,
        deletions=output.deletions,
        insertions=output.insertions,
        spans=tuple(
            Span(
                cast("Change", chunk.type),
                " ".join(left[chunk.ref_start_idx : chunk.ref_end_idx]),
                " ".join(right[chunk.hyp_start_idx : chunk.hyp_end_idx]),
            )
            for chunk in output.alignments[0]
        ),
    )


def total(errors: "list[WordErrors]") -> WordErrors:
    """All of them as one text: a long clip weighs as much as its words."""
    return WordErrors(
        sum(one.words for one in errors),
        sum(one.substitutions for one in errors),
        sum(one.deletions for one in errors),
        sum(one.insertions for one in errors),
    )


@cache
def _normaliser() -> Callable[[str], str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a string in it warns when it is compiled for the first time
            import_module("jiwer")
            normaliser = import_module("whisper_normalizer.english").EnglishTextNormalizer()
    except ImportError as error:
        raise BadConfig(f"Word error rates need {error.name}: {INSTALL}") from error
    return cast("Callable[[str], str]", normaliser)
