"""Events on their way to one client: numbered when they leave, so a merged partial leaves no gap.

A slow client costs bounded memory: of the partials of a segment only the newest waits, and none once its
final is there. Nothing else is ever dropped; too many of those waiting is an error of the client.
"""

from collections import deque

from perch.core.messages import Ack, Event, Final, Partial


class OutboxFull(Exception):
    """The client does not read what it is sent."""


class Outbox:
    """A queue in which a newer partial or acknowledgement takes the place of an older one."""

    def __init__(self, max_events: int = 4096) -> None:
        self._max_events = max_events
        self._events: deque[Event] = deque()
        self._seq = 0

    def __len__(self) -> int:
        return len(self._events)

    def push(self, event: Event) -> None:
        """Queue ``event``.

        Raises:
            OutboxFull: ``max_events`` events that may not be dropped are waiting.
        """
        if self._events:
            if isinstance(event, Partial | Final):
                self._withdraw_partial(event.segment)
            elif isinstance(event, Ack):
                self._withdraw_ack()
        if len(self._events) >= self._max_events:
            raise OutboxFull
        self._events.append(event)

    def pop(self) -> tuple[int, Event] | None:
        """The next event and its sequence number (1, 2, …), or None."""
        if not self._events:
            return None
        self._seq += 1
        return self._seq, self._events.popleft()

    def _withdraw_partial(self, segment: int) -> None:
        for waiting in reversed(self._events):
            if isinstance(waiting, Partial) and waiting.segment == segment:
                self._events.remove(waiting)
                return

    def _withdraw_ack(self) -> None:
        for waiting in self._events:
            if isinstance(waiting, Ack):
                self._events.remove(waiting)
                return
