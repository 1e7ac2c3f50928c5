"""From an engine's clock to the session's, when the engine was given silence the client never sent."""

from bisect import bisect_right


class Timeline:
    """Positions of one attempt.

    The attempt began at ``base`` of the session and counts its samples from 0. Silence that keeps an idle
    engine awake moves its clock and not the session's; a position inside such silence is the moment before.
    """

    def __init__(self, base: int) -> None:
        self._base = base
        self._starts: list[int] = []  # engine positions at which silence was put in
        self._totals: list[int] = [0]  # silence put in before the n-th of them

    @property
    def inserted(self) -> int:
        """Samples of silence put in so far."""
        return self._totals[-1]

    @property
    def is_sessions(self) -> bool:
        """True while both clocks show the same."""
        return self._base == 0 and not self._starts

    def insert(self, session_position: int, samples: int) -> None:
        """Note ``samples`` of silence given to the engine after the audio up to ``session_position``."""
        self._starts.append(session_position - self._base + self.inserted)
        self._totals.append(self.inserted + samples)

    def to_session(self, engine_position: int) -> int:
        """The session's position of something the engine says happened at ``engine_position``."""
        index = bisect_right(self._starts, engine_position)
        if index == 0:
            return self._base + engine_position
        start, before, after = self._starts[index - 1], self._totals[index - 1], self._totals[index]
        inside = min(engine_position - start, after - before)
        return self._base + engine_position - before - inside
