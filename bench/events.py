"""What either road said, in terms both share."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import orjson

from perch.riva import convert
from perch.riva.proto import asr


class Heard(NamedTuple):
    """A partial or final, and when it came. Equal in all but the time on every stream and both roads."""

    at: float
    segment: int
    is_final: bool
    text: str


def from_gateway(messages: Iterable[tuple[float, bytes]]) -> Iterator[Heard]:
    """The partials and finals among ``perch.v1`` events."""
    for at, message in messages:
        event = orjson.loads(message)
        if event["type"] in {"partial", "final"}:
            yield Heard(at, event["segment"], event["is_final"], event["text"])


def from_engine(messages: Iterable[tuple[float, bytes]]) -> Iterator[Heard]:
    """The partials and finals among Riva's responses."""
    segment = 0
    for at, message in messages:
        response = asr.StreamingRecognizeResponse.FromString(message)
        for hypothesis in convert.hypotheses_from_proto(response, diarized=False):
            if hypothesis.text:
                yield Heard(at, segment, hypothesis.is_final, hypothesis.text)
                segment += hypothesis.is_final
