"""How calm the words are while they are spoken."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import pairwise

_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")


@dataclass(frozen=True, slots=True)
class Rewrites:
    """Of ``shown`` words that a later text of the same segment followed, it changed or withdrew ``rewritten``."""

    shown: int = 0
    rewritten: int = 0

    @property
    def share(self) -> float | None:
        return self.rewritten / self.shown if self.shown else None


def words_of(text: str) -> list[str]:
    """The words of a text as a reader compares them: capitals and punctuation do not count."""
    return _WORD.findall(text.lower())


def rewrites(segments: Iterable[Sequence[str]]) -> Rewrites:
    """Compare the texts of each segment in the order they were shown: its partials, then its final.

    A word is kept if it stands in the next text too, in the same order among the kept ones. Words added
    at the end, or between others, rewrite nothing.
    """
    shown = rewritten = 0
    for texts in segments:
        for before, after in pairwise(map(words_of, texts)):
            matcher = SequenceMatcher(None, before, after, autojunk=False)
            kept = sum(block.size for block in matcher.get_matching_blocks())
            shown += len(before)
            rewritten += len(before) - kept
    return Rewrites(shown, rewritten)


def total(parts: Iterable[Rewrites]) -> Rewrites:
    listed = list(parts)
    return Rewrites(sum(part.shown for part in listed), sum(part.rewritten for part in listed))
