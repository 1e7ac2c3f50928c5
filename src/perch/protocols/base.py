"""What a dialect is: a translation between frames of a WebSocket and the session's messages.

A codec belongs to one connection and does no I/O: it knows no clock but ``Request.now`` and makes no random
numbers but by ``Request.new_id``. Adding a dialect adds a file beside this one and a row to
``server/dialects.py``.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Protocol

from perch.core.messages import Backend, Command, Event, Limits, SessionConfig, Start
from perch.core.speech import ModelInfo
from perch.errors import PerchError

CLOSE_NORMAL = 1000
CLOSE_GOING_AWAY = 1012
CLOSE_INTERNAL = 1011
CLOSE_CODES = {
    "unauthorized": 1008,
    "forbidden": 1008,
    "origin_refused": 1008,
    "bad_message": 1008,
    "bad_config": 1008,
    "bad_audio": 1008,
    "language_unsupported": 1008,
    "model_unavailable": 1008,
    "resume_unknown": 1008,
    "session_too_long": 1008,
    "idle_timeout": 1008,
    "asr_disabled": 1008,
    "message_too_big": 1009,
    "going_away": CLOSE_GOING_AWAY,
    "rate_limited": 1013,
    "at_capacity": 1013,
    "engine_full": 1013,
    "lag_exceeded": 1013,
}
"""Close code by error code; anything else is 1011."""

Dumps = Callable[[Mapping[str, Any]], str]
"""Serialises a JSON object; passed in so that the server can use a faster one than the standard library's."""


@dataclass(frozen=True, slots=True)
class Request:
    """What a codec is told of the request that opens its connection."""

    stream_id: str
    now: float
    """Unix time, seconds."""
    new_id: Callable[[str], str]
    """Makes an identifier nobody has had, with the given prefix (``"item_"``)."""
    query: Sequence[tuple[str, str]] = ()
    """In order, names repeated as in the URL, credentials taken out."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Case-insensitive, credentials not taken out: do not repeat any of it to the client."""
    defaults: SessionConfig = field(default_factory=SessionConfig)
    backend: Backend = field(default_factory=lambda: Backend("riva"))
    models: Sequence[ModelInfo] = ()
    limits: Limits = field(default_factory=Limits)
    dumps: Dumps = json.dumps
    trace_id: str = ""
    """32 hexadecimal digits by which the stream's log lines and spans are found."""

    @property
    def mock(self) -> bool:
        """Whether every frame must say that nothing is recognised (``"mock": true``)."""
        return self.backend.kind == "mock"


class WireProtocol(Protocol):
    """One dialect on one connection."""

    resumable: bool
    """Whether its clients can take up a session on another socket."""
    confirms_finalize: bool
    """Whether it is to be told ``Finalized``."""
    idle_timeout_s: float | None
    """The dialect's own limit of seconds without any frame from the client; None leaves it to the gateway."""

    details: Mapping[str, str]
    """What the client has said of itself (which call it is): for whoever else hears the transcript."""

    def opening(self) -> Sequence[Command]:
        """Commands the request itself already carries, and what the server says first (``Reply``)."""
        ...

    def implicit_start(self) -> Start:
        """What a client gets that begins with audio, or with nothing at all for a while."""
        ...

    def decode_text(self, frame: str) -> Sequence[Command]:
        """Translate a text frame.

        Raises:
            ClientFault: It is not in the dialect, and the dialect ends a connection for that.
        """
        ...

    def decode_binary(self, frame: bytes) -> Sequence[Command]:
        """Translate a binary frame; raises as ``decode_text``."""
        ...

    def encode(self, seq: int, event: Event) -> Sequence[str]:
        """Translate an event into text frames: none, if the dialect has no word for it."""
        ...

    def resumed(self, stream_id: str, config: SessionConfig) -> None:
        """From here on the connection speaks of the stream it has resumed."""
        ...

    def close_code(self, error: PerchError) -> int:
        """The WebSocket close code that ``error`` ends the connection with."""
        ...


class OneSocketProtocol:
    """What the dialects have in common whose sessions end with their socket."""

    resumable = False
    confirms_finalize = False
    idle_timeout_s: float | None = None
    details: Mapping[str, str] = MappingProxyType({})

    def resumed(self, stream_id: str, config: SessionConfig) -> None:
        raise AssertionError(f"the session {stream_id} of {config} cannot be resumed")

    def close_code(self, error: PerchError) -> int:
        return CLOSE_CODES.get(error.code, CLOSE_INTERNAL)


@dataclass(frozen=True, slots=True)
class Dialect:
    """A dialect as the server needs it before there is a connection."""

    name: str
    open: Callable[[Request], WireProtocol]
    """Makes the codec of a connection; a ``ClientFault`` it raises is answered over HTTP, before the upgrade."""
    refusal: Callable[[PerchError], Mapping[str, Any]]
    """The JSON body of such an answer."""
    subprotocols: tuple[str, ...] = ()
    """WebSocket subprotocols it selects from, the preferred first."""
    id_header: str = "X-Request-ID"
    """The header of the answer to the upgrade that carries the stream's identifier."""
    is_observed: bool = False
    """Its clients are told nothing: transcripts go to webhooks and observers."""
    max_message_bytes: int = 0
    """Larger messages than the gateway's limit, where the dialect promises them."""
