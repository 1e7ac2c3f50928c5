"""The audio that may still be needed: a stretch of PCM that knows where on the stream's clock it is."""

from perch.core.audio import bytes_to_samples, samples_to_bytes


class PcmWindow:
    """16-bit mono PCM from sample ``start`` to sample ``end``; the front is dropped, the back grows."""

    def __init__(self) -> None:
        self._pcm = bytearray()
        self.start = 0

    @property
    def end(self) -> int:
        return self.start + bytes_to_samples(len(self._pcm))

    def append(self, pcm: bytes) -> None:
        self._pcm += pcm

    def read(self, start: int, end: int) -> bytes:
        """The samples from ``start`` to ``end``, as far as they are here."""
        first = samples_to_bytes(max(start, self.start) - self.start)
        last = samples_to_bytes(max(end, self.start) - self.start)
        return bytes(self._pcm[first:last])

    def drop_before(self, position: int) -> None:
        """Forget what lies before ``position``."""
        position = min(max(position, self.start), self.end)
        del self._pcm[: samples_to_bytes(position - self.start)]
        self.start = position
