"""The audio no final covers yet, kept once and bounded.

One bound does three jobs: it is the memory limit, the replay horizon (audio that was sent and then
forgotten cannot be replayed) and the back-pressure (audio that was never sent may not be forgotten).
"""

from collections import deque

from perch.core.audio import bytes_to_samples, samples_to_bytes


class WindowFull(Exception):
    """The window holds nothing but audio no engine has taken; accepting more would lose some."""


class ReplayWindow:
    """A queue of PCM16 chunks with two cursors: what was sent, and what must be kept.

    Positions are samples from the first sample of the session::

        start ≤ sent ≤ end        [start, sent) can be replayed, [sent, end) waits to be sent
    """

    def __init__(self, max_bytes: int, start: int = 0) -> None:
        self._max_bytes = max_bytes
        self._chunks: deque[bytes] = deque()
        self._next = 0  # index into _chunks of the first chunk not sent yet
        self._bytes = 0
        self.start = self.sent = self.end = start
        self.forgotten = 0
        """Samples that no final covered when they left the window: lost to any replay."""

    @property
    def waiting(self) -> int:
        """Samples accepted and not sent yet."""
        return self.end - self.sent

    @property
    def size(self) -> int:
        """Bytes held."""
        return self._bytes

    def append(self, pcm: bytes) -> None:
        """Accept audio.

        Raises:
            WindowFull: There is no room that is not owed to the engine; nothing was accepted.
        """
        if samples_to_bytes(self.waiting) + len(pcm) > self._max_bytes:
            raise WindowFull
        self._chunks.append(pcm)
        self._bytes += len(pcm)
        self.end += bytes_to_samples(len(pcm))
        while self._bytes > self._max_bytes:
            self.forgotten += self._drop_first()

    def take(self, max_bytes: int, *, until: int | None = None) -> bytes:
        """Return the next unsent audio, whole chunks joined up to about ``max_bytes``; empty if none waits.

        Nothing that begins at or after the position ``until`` is taken.
        """
        limit = max_bytes if until is None else min(max_bytes, samples_to_bytes(until - self.sent))
        parts: list[bytes] = []
        size = 0
        while self._next < len(self._chunks) and size < limit:
            parts.append(self._chunks[self._next])
            size += len(parts[-1])
            self._next += 1
        self.sent += bytes_to_samples(size)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def trim(self, position: int) -> None:
        """Forget the chunks that end at or before ``position``: a final covers them."""
        while self._next and self.start + bytes_to_samples(len(self._chunks[0])) <= position:
            self._drop_first()

    def unfinalised(self) -> bytes:
        """All audio held: what no final covers yet."""
        return b"".join(self._chunks)

    def rewind(self) -> int:
        """Begin sending again from ``start``, and return that position."""
        self._next = 0
        self.sent = self.start
        return self.start

    def _drop_first(self) -> int:
        chunk = self._chunks.popleft()
        samples = bytes_to_samples(len(chunk))
        self._next -= 1
        self._bytes -= len(chunk)
        self.start += samples
        return samples
