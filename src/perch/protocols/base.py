"""What a dialect is: a translation between frames of a WebSocket and the session's messages.

A protocol object belongs to one connection and does no I/O. Adding a dialect adds a file beside this one.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from perch.core.messages import Command, Event, SessionConfig, Start
from perch.errors import PerchError

Dumps = Callable[[Mapping[str, Any]], str]
"""Serialises a JSON object; passed in so that the server can use a faster one than the standard library's."""


class WireProtocol(Protocol):
    """One dialect on one connection."""

    subprotocol: str | None
    """The WebSocket subprotocol the server selects, if the client offered it."""

    def opening(self) -> Command | None:
        """A command the request itself already carries (its query), if any."""
        ...

    def implicit_start(self) -> Start:
        """What a client gets that begins with audio, or with nothing at all for a while."""
        ...

    def decode_text(self, frame: str) -> Command:
        """Translate a text frame.

        Raises:
            BadMessage, BadConfig: It is not in the dialect.
        """
        ...

    def decode_binary(self, frame: bytes) -> Command:
        """Translate a binary frame."""
        ...

    def encode(self, seq: int, event: Event) -> str | None:
        """Translate an event into a text frame, or None if the dialect has no word for it."""
        ...

    def resumed(self, stream_id: str, config: SessionConfig) -> None:
        """From here on the connection speaks of the stream it has resumed."""
        ...

    def close_code(self, error: PerchError) -> int:
        """The WebSocket close code that ``error`` ends the connection with."""
        ...
