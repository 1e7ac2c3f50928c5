"""What NeMo's own decoding says, of whatever version of NeMo: its hypotheses became tokens with times here.

Where a hypothesis has its frames changed twice: ``timestep`` was a list, then a dictionary whose entry
``timestep`` is the list, and is now called ``timestamp``, which is one or the other.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from perch.inference.parakeet.model import Token


def said(hypothesis: Any, vocabulary: Sequence[str]) -> list[Token]:
    """The tokens of an RNN-T or TDT hypothesis, those without text left out.

    Args:
        hypothesis: NeMo's ``Hypothesis``.
        vocabulary: The text of every token.

    Raises:
        ValueError: It has a frame for some of its tokens only.
    """
    ids = _numbers(hypothesis.y_sequence)
    frames = _frames(hypothesis)
    lasts = _numbers(getattr(hypothesis, "token_duration", None)) or [1] * len(ids)
    chances = getattr(hypothesis, "token_confidence", None) or [None] * len(ids)
    return [
        Token(vocabulary[one], frame, max(1, last), None if chance is None else float(chance))
        for one, frame, last, chance in zip(ids, frames, lasts, chances, strict=True)
        if one < len(vocabulary) and vocabulary[one] != "<unk>"
    ]


def _frames(hypothesis: Any) -> list[int]:
    told = getattr(hypothesis, "timestamp", None)
    if told is None:
        told = getattr(hypothesis, "timestep", None)
    if isinstance(told, Mapping):
        told = told.get("timestep")
    return _numbers(told)


def _numbers(values: Any) -> list[int]:
    """Of a list, or a tensor on whatever device."""
    if values is None:
        return []
    return [int(one) for one in (values.tolist() if hasattr(values, "tolist") else values)]
