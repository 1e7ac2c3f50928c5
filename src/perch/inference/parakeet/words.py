"""From tokens to text and words with times."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from perch.core.speech import Characters, Word
from perch.inference.parakeet.model import FRAME, WORD_START, Token
from perch.inference.recogniser import Recognition


@dataclass(slots=True)
class _Spelling:
    tokens: list[Token] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(token.text for token in self.tokens).replace(WORD_START, "")


def text_of(tokens: Sequence[Token]) -> str:
    """What the tokens say, with single spaces between words."""
    return " ".join("".join(token.text for token in tokens).replace(WORD_START, " ").split())


def recognition(tokens: Sequence[Token], *, samples: int, times: bool = True) -> Recognition:
    """The final of an utterance of ``samples`` samples.

    A word lasts from the start of its first token to the end of its last, never into the next word nor
    past the utterance. Its confidence is that of its least certain token, and the utterance's the
    geometric mean of all tokens; None where the model does not say.
    """
    spellings = _spellings(tokens)
    words = tuple(_words(spellings, samples)) if times else ()
    return Recognition(text_of(tokens), words, _mean(tokens))


def _spellings(tokens: Sequence[Token]) -> list[_Spelling]:
    spellings: list[_Spelling] = []
    for token in tokens:
        if token.text.startswith(WORD_START) or not spellings:
            spellings.append(_Spelling())
        spellings[-1].tokens.append(token)
    return [spelling for spelling in spellings if spelling.text.strip()]


def _words(spellings: Sequence[_Spelling], samples: int) -> list[Word]:
    starts = [min(round(spelling.tokens[0].frame * FRAME), samples) for spelling in spellings]
    words = []
    for spelling, start, limit in zip(spellings, starts, [*starts, samples][1:], strict=True):
        characters = tuple(_characters(spelling.tokens, start, max(limit, start)))
        end = characters[-1].end
        words.append(Word(spelling.text, start, end, _least(spelling.tokens), characters=characters))
    return words


def _characters(tokens: Sequence[Token], start: int, limit: int) -> Iterator[Characters]:
    """Each token's, one after the other from ``start``, none past ``limit``."""
    starts = [start]
    for token in tokens[1:]:
        starts.append(min(max(round(token.frame * FRAME), starts[-1]), limit))
    for token, begin, following in zip(tokens, starts, [*starts[1:], limit], strict=True):
        end = min(max(round((token.frame + token.frames) * FRAME), begin), following)
        if text := token.text.replace(WORD_START, ""):
            yield Characters(text, begin, end)


def _least(tokens: Sequence[Token]) -> float | None:
    known = [token.confidence for token in tokens if token.confidence is not None]
    return round(min(known), 4) if known else None


def _mean(tokens: Sequence[Token]) -> float | None:
    known = [token.confidence for token in tokens if token.confidence is not None]
    if not known:
        return None
    return round(math.exp(sum(math.log(max(value, 1e-9)) for value in known) / len(known)), 4)
