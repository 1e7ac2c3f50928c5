"""Triton's forgetfulness, on request: a sequence idle for too long is gone, and the next chunk says so.

Riva clients must cope with it (they send silence, or open another stream), and so must the gateway,
which is why the engine can be told to behave the same way.
"""

from perch.errors import BadConfig


class IdleSequence:
    """Watches the time between the audio messages of one stream; without a limit it allows any."""

    def __init__(self, limit_s: float | None, *, since: float) -> None:
        self._limit_s = limit_s
        self._last_audio = since

    def message(self, now: float, *, has_audio: bool) -> None:
        """Note a message.

        Raises:
            BadConfig: There was no audio for longer than the limit; the text is Triton's.
        """
        if self._limit_s is not None and now - self._last_audio > self._limit_s:
            raise BadConfig(
                "inference request for sequence 1 to model 'perch' must specify the START flag "
                "on the first request of the sequence"
            )
        if has_audio:
            self._last_audio = now
