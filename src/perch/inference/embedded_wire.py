"""What the embedded recogniser and its workers say to each other over Unix sockets.

A voice and its worker exchange frames, one reply per request: a kind byte, the body's length as four
little-endian bytes, the body. A new worker speaks first, with ``HELLO``. The zygote's socket keeps message
boundaries and carries bare messages: ``FORK`` or ``FORK_FINALS_ONLY`` (with the worker's socket attached)
and ``KILL`` plus a process id go down, ``LOADED`` comes up once.
"""

import json
from collections.abc import Iterator

from perch.core.speech import Word
from perch.errors import EngineFailed
from perch.inference.recogniser import Recognition

HELLO = b"H"
"""Worker: I exist. Body: my process id."""
FEED = b"A"
"""Voice: more of the utterance. Body: PCM. Reply: ``TEXT`` or ``SAME``."""
FINISH = b"E"
"""Voice: the utterance is over. Reply: ``FINAL``."""
SAME = b"S"
"""Worker: nothing new to show."""
TEXT = b"T"
"""Worker: the text so far, UTF-8."""
FINAL = b"F"
"""Worker: the recognition, JSON."""

LOADED = b"loaded"
FORK = b"fork"
FORK_FINALS_ONLY = b"fork finals"
KILL = b"kill"

HEADER = 5
MAX_BODY = 4 * 1024 * 1024
"""Bytes. A FEED is bounded by the longest utterance, a reply by its words."""


def frame(kind: bytes, body: bytes = b"") -> bytes:
    return kind + len(body).to_bytes(4, "little") + body


class Deframer:
    """Frames out of a byte stream, whatever its chunking."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Yield each frame that ``data`` completes, as kind and body.

        Raises:
            EngineFailed: A length that no frame can have.
        """
        self._buffer += data
        while len(self._buffer) >= HEADER:
            length = int.from_bytes(self._buffer[1:HEADER], "little")
            if length > MAX_BODY:
                raise EngineFailed("The recogniser's worker sent something that is not a frame.")
            if len(self._buffer) < HEADER + length:
                return
            whole = bytes(self._buffer[: HEADER + length])
            del self._buffer[: HEADER + length]
            yield whole[:1], whole[HEADER:]


def pack(recognition: Recognition) -> bytes:
    words = [[word.text, word.start, word.end, word.confidence] for word in recognition.words]
    return json.dumps([recognition.text, words, recognition.confidence]).encode()


def unpack(body: bytes) -> Recognition:
    text, words, confidence = json.loads(body)
    return Recognition(text, tuple(Word(*word) for word in words), confidence)
