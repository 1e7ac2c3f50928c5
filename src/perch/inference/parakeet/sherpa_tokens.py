"""From the tokens that sherpa-onnx gives to ours."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from perch.core.audio import RATE
from perch.inference.parakeet.model import FRAME, WORD_START, Token

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_SPECIAL = re.compile(r"<[^<>]+>")
"""No text: ``<unk>``, a tag of a language and the like."""


@dataclass(frozen=True, slots=True)
class Said:
    """A result of the library: all tokens of an utterance so far, and as many or none of the rest."""

    tokens: Sequence[str]
    """A space in front begins a word; bytes of a character that is not in the vocabulary as ``<0xE2>``."""
    seconds: Sequence[float]
    durations: Sequence[float] = ()
    log_probabilities: Sequence[float] = ()

    def token(self, index: int, text: str) -> Token:
        known = len(self.log_probabilities) == len(self.tokens)
        return Token(
            text,
            _frames(self.seconds[index]),
            _frames(self.durations[index]) if len(self.durations) == len(self.tokens) else 1.0,
            round(math.exp(self.log_probabilities[index]), 4) if known else None,
        )


def spell(said: Said, first: int, *, last: bool) -> tuple[list[Token], int]:
    """The tokens from number ``first`` on, and the number to go on from next time.

    Bytes of a character that is not complete wait for the rest, except if ``last``.
    """
    tokens: list[Token] = []
    at = first
    while at < len(said.tokens):
        size = _character(said.tokens, at)
        if size == 0:
            if not _SPECIAL.fullmatch(said.tokens[at]):
                tokens.append(said.token(at, _text(said.tokens[at])))
            at += 1
            continue
        if at + size > len(said.tokens) and not last:
            break
        tokens.append(_joined(said, at, min(at + size, len(said.tokens))))
        at += size
    return tokens, min(at, len(said.tokens))


def _text(token: str) -> str:
    return WORD_START + token[1:] if token.startswith(" ") else token


def _character(tokens: Sequence[str], at: int) -> int:
    """How many byte tokens the character at a place has, whether or not all are there; 0 if it is text."""
    found = _BYTE.fullmatch(tokens[at])
    if found is None:
        return 0
    lead = int(found[1], 16)
    size = 1 + (lead >= 0xC0) + (lead >= 0xE0) + (lead >= 0xF0)
    there = tokens[at + 1 : at + size]
    broken = next((n for n, token in enumerate(there, 1) if not _BYTE.fullmatch(token)), None)
    return broken or size


def _joined(said: Said, start: int, end: int) -> Token:
    """One token of the bytes of one character, as sure as the least sure of them."""
    each = [said.token(index, "") for index in range(start, end)]
    known = [token.confidence for token in each if token.confidence is not None]
    spelled = bytes(int(byte[3:5], 16) for byte in said.tokens[start:end]).decode(errors="replace")
    return Token(
        spelled,
        each[0].frame,
        each[-1].frame + each[-1].frames - each[0].frame,
        min(known) if known else None,
    )


def _frames(seconds: float) -> float:
    """The library has whole frames as seconds in single precision."""
    return float(round(seconds * RATE / FRAME))
