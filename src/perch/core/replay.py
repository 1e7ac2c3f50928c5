"""The audio no final covers yet, kept once and bounded.

One window does three jobs: it is the memory limit, the replay horizon (audio that was sent and then
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

    Args:
        max_bytes: Audio held at most; beyond it nothing is accepted that would push out unsent audio.
        max_replay_bytes: Audio held at most that was sent already.
        start: The position of the first sample.
    """

    def __init__(self, max_bytes: int, max_replay_bytes: int | None = None, start: int = 0) -> None:
        self._max_bytes = max_bytes
        self._max_replay_bytes = max_bytes if max_replay_bytes is None else max_replay_bytes
        self._chunks: deque[bytes] = deque()
        self._next = 0  # index into _chunks of the first chunk not sent yet
        self._bytes = 0
        self.start = self.sent = self.end = start
        self.covered = start
        """The position up to which finals account for the audio."""

    @property
    def waiting(self) -> int:
        """Samples accepted and not sent yet."""
        return self.end - self.sent

    @property
    def forgotten(self) -> int:
        """Samples no final covers that are no longer here: lost to a replay that began now."""
        return max(0, self.start - self.covered)

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
        self._forget()

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
        if self._bytes > self._max_replay_bytes:
            self._forget()
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def trim(self, position: int) -> None:
        """A final covers the audio up to ``position``: forget the chunks that end there or before."""
        self.covered = max(self.covered, position)
        while self._next and self.start + bytes_to_samples(len(self._chunks[0])) <= self.covered:
            self._drop_first()

    def unfinalised(self) -> bytes:
        """All audio held: what no final covers yet, and the rest of a chunk that one covers in part."""
        return b"".join(self._chunks)

    def rewind(self) -> int:
        """Begin sending again from the first sample no final covers, and return its position.

        A chunk that is covered in part is cut there, so that no engine hears the end of a word again.
        """
        self._next = 0
        surplus = min(self.covered, self.end) - self.start
        while self._chunks and surplus >= bytes_to_samples(len(self._chunks[0])):
            surplus -= bytes_to_samples(len(self._chunks[0]))
            self._next = 1
            self._drop_first()
        if surplus > 0:
            self._chunks[0] = self._chunks[0][samples_to_bytes(surplus) :]
            self._bytes -= samples_to_bytes(surplus)
            self.start += surplus
        self.sent = self.start
        return self.start

    def _forget(self) -> None:
        """Let go of the oldest audio that was sent, down to the bounds."""
        while self._next and (
            self._bytes > self._max_bytes or samples_to_bytes(self.sent - self.start) > self._max_replay_bytes
        ):
            self._drop_first()

    def _drop_first(self) -> None:
        chunk = self._chunks.popleft()
        self._next -= 1
        self._bytes -= len(chunk)
        self.start += bytes_to_samples(len(chunk))
