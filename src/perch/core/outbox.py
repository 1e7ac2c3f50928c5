"""Events on their way to one client: numbered when they leave, so a merged partial leaves no gap.

A slow client costs bounded memory: of the partials of a segment only the newest waits, and none once its
final is there. Nothing else is ever dropped; too many of those waiting is an error of the client.

What has left is remembered, within bounds, for a client that comes back on another socket: it is sent again
what it missed, each event with the number it had. What a later event replaces (a partial, an acknowledgement)
and what belongs to one socket only (``ready``, ``pong``, ``error``) is not sent again.
"""

from collections import deque
from dataclasses import dataclass

from perch.core.messages import Ack, Event, Failed, Final, Finalized, Partial, Pong, Ready, Reply

# Tuples, not unions: one is made anew wherever it is written, and this is asked for every event.
_SPOKEN = (Partial, Final)
_OF_ONE_SOCKET = (Ready, Pong, Failed, Reply, Finalized)
_EVENT_BYTES = 200
_WORD_BYTES = 120


class OutboxFull(Exception):
    """The client does not read what it is sent."""


class EventsForgotten(Exception):
    """The events a client missed are not all here any more, or never were."""


@dataclass(frozen=True, slots=True)
class SentEvents:
    """What an outbox in another process goes on from: what was sent, under which numbers."""

    seq: int
    forgotten: int
    events: tuple[tuple[int, Event], ...]


class Outbox:
    """A queue in which a newer partial or acknowledgement takes the place of an older one.

    Args:
        max_events: Events that may wait.
        max_sent: Events remembered after they were sent.
        max_sent_bytes: About how much memory those may take.
        sent: What was sent before, by another outbox.
    """

    def __init__(
        self,
        max_events: int = 4096,
        *,
        max_sent: int = 2048,
        max_sent_bytes: int = 1 << 20,
        sent: SentEvents | None = None,
    ) -> None:
        self._max_events = max_events
        self._max_sent = max_sent
        self._max_sent_bytes = max_sent_bytes
        self._events: deque[Event] = deque()
        self._again: deque[tuple[int, Event]] = deque()
        self._seq = 0
        self._sent: dict[int, Event] = {}
        self._sent_bytes = 0
        self._forgotten = 0  # number of the newest event that was let go for want of room
        self._newest_ack = 0  # their numbers: what is newer takes their place
        self._newest_partial: dict[int, int] = {}  # by channel
        if sent is not None:
            self._seq, self._forgotten = sent.seq, sent.forgotten
            for seq, event in sent.events:
                self._remember(seq, event)

    def __len__(self) -> int:
        return len(self._again) + len(self._events)

    def push(self, event: Event) -> None:
        """Queue ``event``.

        Raises:
            OutboxFull: ``max_events`` events that may not be dropped are waiting; how a session failed
                can still be said.
        """
        if self._events:
            if isinstance(event, _SPOKEN):
                self._withdraw_partial(event.segment)
            elif isinstance(event, Ack):
                self._withdraw_ack()
        if len(self._events) >= self._max_events and not isinstance(event, Failed):
            raise OutboxFull
        self._events.append(event)

    def pop(self) -> tuple[int, Event] | None:
        """The next event and its sequence number (1, 2, …), or None."""
        if self._again:
            return self._again.popleft()
        if not self._events:
            return None
        self._seq += 1
        event = self._events.popleft()
        self._remember(self._seq, event)
        return self._seq, event

    def resume_after(self, last_seq: int) -> None:
        """Send again what came after number ``last_seq``, before anything else.

        Raises:
            EventsForgotten: Not all of it is here.
        """
        if not self._forgotten <= last_seq <= self._seq:
            raise EventsForgotten
        self._again = deque((seq, event) for seq, event in self._sent.items() if seq > last_seq)
        self._events = deque(event for event in self._events if not isinstance(event, _OF_ONE_SOCKET))

    def all_sent(self) -> SentEvents:
        """What another outbox goes on from; what still waits counts as sent, and missed.

        One number is left out, for the event that tells the client to go elsewhere.
        """
        self._again.clear()
        while self.pop() is not None:
            pass
        return SentEvents(self._seq + 1, self._forgotten, tuple(self._sent.items()))

    def _remember(self, seq: int, event: Event) -> None:
        if isinstance(event, _OF_ONE_SOCKET):
            return
        if isinstance(event, _SPOKEN):
            self._let_go(self._newest_partial.pop(event.channel, 0))
            if isinstance(event, Partial):
                self._newest_partial[event.channel] = seq
        elif isinstance(event, Ack):
            self._let_go(self._newest_ack)
            self._newest_ack = seq
        self._sent[seq] = event
        self._sent_bytes += _size(event)
        while len(self._sent) > self._max_sent or self._sent_bytes > self._max_sent_bytes:
            self._forgotten = next(iter(self._sent))
            self._let_go(self._forgotten)

    def _let_go(self, seq: int) -> None:
        event = self._sent.pop(seq, None)
        if event is not None:
            self._sent_bytes -= _size(event)

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


def _size(event: Event) -> int:
    """About how many bytes ``event`` takes in memory."""
    words = len(event.words) * _WORD_BYTES if isinstance(event, Final) else 0
    return _EVENT_BYTES + len(getattr(event, "text", "")) + words
