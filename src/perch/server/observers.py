"""The transcript of a stream for others than its client: sockets that watch it, and webhooks.

``publish`` costs next to nothing where nobody watches. A watcher that does not keep up is dropped, never waited
for.
"""

import asyncio
import json
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from perch import errors
from perch.core.messages import Event, Final, Finalized, Partial, Ready, Reply
from perch.protocols.native import NativeProtocol
from perch.server.webhooks import Webhooks

_UNSEEN = (Reply, Finalized)
_FINALS_KEPT = 1000
_QUEUE = 256
_MOST_WATCHERS = 16

Watcher = asyncio.Queue[str | None]
"""Frames for one observer; None ends them."""


class Audience:
    """One stream and who hears it beside its client. ``open`` it, ``publish``, ``close``."""

    def __init__(
        self,
        observers: "Observers",
        stream_id: str,
        principal: str,
        dialect: str,
        *,
        is_observed: bool,
        details: Mapping[str, str],
    ) -> None:
        self._observers = observers
        self._stream_id = stream_id
        self._described = {"stream_id": stream_id, "dialect": dialect, "principal": principal}
        self._is_observed = is_observed
        self._details = details
        self._codec = NativeProtocol(stream_id)
        self._finals: deque[tuple[int, Final]] = deque(maxlen=_FINALS_KEPT)
        self._watchers: set[Watcher] = set()

    def renamed(self, stream_id: str) -> "Audience":
        """The audience of a stream that is taken up in this one's place."""
        described = self._described
        return Audience(
            self._observers,
            stream_id,
            described["principal"],
            described["dialect"],
            is_observed=self._is_observed,
            details=self._details,
        )

    def open(self) -> None:
        self._observers.streams[self._stream_id] = self

    def publish(self, seq: int, event: Event) -> None:
        """``event`` has left for the client."""
        if isinstance(event, _UNSEEN):
            return
        if isinstance(event, Ready):
            self._codec.resumed(self._stream_id, event.config)
        if isinstance(event, Final):
            self._finals.append((seq, event))
        posted = self._is_observed and self._observers.webhooks.wants(event)
        if not self._watchers and not posted:
            return
        [frame] = self._codec.encode(seq, event)
        for watcher in tuple(self._watchers):
            self._offer(watcher, event, frame)
        if posted:
            self._observers.webhooks.post({**json.loads(frame), "call": dict(self._details)})

    def close(self) -> None:
        """The stream is over: its watchers hear so."""
        if self._observers.streams.get(self._stream_id) is self:
            del self._observers.streams[self._stream_id]
        for watcher in self._watchers:
            end(watcher)

    def described(self) -> dict[str, Any]:
        return {**self._described, "finals": len(self._finals), "call": dict(self._details)}

    def watch(self) -> tuple[Watcher, Sequence[str]]:
        """What comes from now on, and the finals so far.

        Raises:
            AtCapacity: It has as many watchers as it may.
        """
        if len(self._watchers) >= _MOST_WATCHERS:
            raise errors.AtCapacity(f"The stream already has {_MOST_WATCHERS} observers.", retry_after=5.0)
        watcher: Watcher = asyncio.Queue(_QUEUE)
        self._watchers.add(watcher)
        return watcher, [frame for seq, final in self._finals for frame in self._codec.encode(seq, final)]

    def unwatch(self, watcher: Watcher) -> None:
        self._watchers.discard(watcher)

    def _offer(self, watcher: Watcher, event: Event, frame: str) -> None:
        """Partials are dropped for who does not keep up; who would miss a final is dropped itself."""
        if not watcher.full():
            watcher.put_nowait(frame)
        elif not isinstance(event, Partial):
            self._watchers.discard(watcher)
            end(watcher)


class Observers:
    """Every open stream by its id, and where the transcripts of calls are posted."""

    def __init__(self, webhooks: Webhooks) -> None:
        self.webhooks = webhooks
        self.streams: dict[str, Audience] = {}

    def audience(
        self, stream_id: str, principal: str, dialect: str, *, is_observed: bool, details: Mapping[str, str]
    ) -> Audience:
        """For a new stream. With ``is_observed`` its client is told nothing, so webhooks are."""
        return Audience(self, stream_id, principal, dialect, is_observed=is_observed, details=details)

    def find(self, stream_id: str) -> Audience:
        """The stream of this id.

        Raises:
            ResumeUnknown: There is none.
        """
        if stream_id not in self.streams:
            raise errors.ResumeUnknown("There is no open stream of this id; GET /v1/streams lists them.")
        return self.streams[stream_id]


def end(watcher: Watcher) -> None:
    """Nothing more comes."""
    while watcher.full():
        watcher.get_nowait()
    watcher.put_nowait(None)
