"""What the engine and a model's worker process say to each other over a Unix socket.

Every message is a kind byte, the utterance's number and the body's length as four little-endian bytes
each, and the body. The worker speaks first: ``PROGRESS`` any number of times, then ``LOADED`` or
``REFUSED``. Utterances are numbered by the engine and begin with their first message.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from perch.core.speech import Characters, Word
from perch.errors import EngineFailed
from perch.inference.parakeet.model import Facts
from perch.inference.recogniser import Recognition

AUDIO = b"A"
"""Engine: more of the utterance. Body: 16-bit PCM. Answered by ``TEXT`` if it completes a piece."""
LAST = b"L"
"""Engine: the rest of the utterance, which may be nothing. Answered by ``FINAL``."""
WHOLE = b"W"
"""Engine: a whole utterance of a recording, which can wait. Answered by ``FINAL``."""
DROP = b"D"
"""Engine: the utterance is not wanted any more. Not answered."""
PING = b"I"
"""Engine: are you there? Answered by ``PONG`` between two steps. Number 0."""
PONG = b"O"
"""Worker: here. Number 0."""
TEXT = b"T"
"""Worker: every whole piece has been heard; the text so far, UTF-8."""
FINAL = b"F"
"""Worker: the recognition, JSON. The number may be forgotten."""
FAILED = b"X"
"""Worker: this utterance cannot go on. Body: why. The number may be forgotten."""
PROGRESS = b"P"
"""Worker: what it is doing while it loads."""
LOADED = b"R"
"""Worker: ready. Body: facts and slots, JSON."""
REFUSED = b"N"
"""Worker: it will not load. Body: code and message, JSON."""

HEADER = 9
MAX_BODY = 64 * 1024 * 1024
"""Bytes. The longest body is an utterance's audio."""


def message(kind: bytes, key: int = 0, body: bytes = b"") -> bytes:
    return kind + key.to_bytes(4, "little") + len(body).to_bytes(4, "little") + body


class Deframer:
    """Messages out of a byte stream, whatever its chunking."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[bytes, int, bytes]]:
        """Yield kind, number and body of each message that ``data`` completes.

        Raises:
            EngineFailed: A length that no message can have.
        """
        self._buffer += data
        while len(self._buffer) >= HEADER:
            length = int.from_bytes(self._buffer[5:HEADER], "little")
            if length > MAX_BODY:
                raise EngineFailed("The model's process sent something that is not a message.")
            if len(self._buffer) < HEADER + length:
                return
            whole = bytes(self._buffer[: HEADER + length])
            del self._buffer[: HEADER + length]
            yield whole[:1], int.from_bytes(whole[1:5], "little"), whole[HEADER:]


def pack(recognition: Recognition) -> bytes:
    words = [
        [
            word.text,
            word.start,
            word.end,
            word.confidence,
            [(c.text, c.start, c.end) for c in word.characters],
        ]
        for word in recognition.words
    ]
    return json.dumps([recognition.text, words, recognition.confidence]).encode()


def unpack(body: bytes) -> Recognition:
    text, words, confidence = json.loads(body)
    return Recognition(text, tuple(_word(*word) for word in words), confidence)


def _word(text: str, start: int, end: int, confidence: float | None, characters: list[Any]) -> Word:
    return Word(text, start, end, confidence, characters=tuple(Characters(*each) for each in characters))


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a worker tells of the model it has loaded."""

    facts: Facts
    slots: int
    """Streams at the same time."""
    recordings: int
    """Utterances of recordings at the same time, beside the streams."""


def pack_loaded(loaded: Loaded) -> bytes:
    return json.dumps(asdict(loaded)).encode()


def unpack_loaded(body: bytes) -> Loaded:
    told: dict[str, Any] = json.loads(body)
    facts = told["facts"]
    return Loaded(**{**told, "facts": Facts(**{**facts, "languages": tuple(facts["languages"])})})
