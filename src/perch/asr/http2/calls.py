"""``Http2Calls``: calls of one method on one server, over as many connections as they need."""

from collections.abc import Iterator
from contextlib import contextmanager

import grpc

from perch.asr.http2.call import Http2Call
from perch.asr.http2.connection import ConnectionConfig, Http2Connection
from perch.asr.http2.dial import Target
from perch.asr.http2.headers import Metadata, metadata_block, request_block
from perch.riva.status import Status, error_from_status


class Http2Calls:
    """Opens connections as they are needed and keeps them.

    No call waits for another to end: one that would exceed the limit of a connection, ours or the server's,
    is given a different one.
    """

    def __init__(
        self,
        target: Target,
        path: str,
        metadata: Metadata,
        config: ConnectionConfig,
        *,
        max_message_bytes: int,
    ) -> None:
        self._target = target
        self._block = request_block(
            authority=target.authority, path=path, tls=target.tls is not None, metadata=metadata
        )
        self._config = config
        self._max_message_bytes = max_message_bytes
        self._connections: list[Http2Connection] = []
        self._server_max_streams: int | None = None
        """As last heard: a hint for connections that have not been told yet."""

    @property
    def streams(self) -> list[int]:
        """How many calls each connection carries."""
        return [connection.streams for connection in self._connections]

    @contextmanager
    def call(self, metadata: Metadata = ()) -> Iterator[Http2Call]:
        """A call, not yet connected; cancelled at the end of the block if it still goes on."""
        call = Http2Call(self, self._max_message_bytes, metadata_block(metadata))
        try:
            yield call
        finally:
            call.cancel()

    async def join(self, call: Http2Call) -> None:
        while not call.is_over:
            connection = self._least_loaded()
            with connection.reserved():
                await connection.ready()
                self._server_max_streams = connection.server_max_streams
                if connection.open(call):
                    return
            if connection.server_max_streams == 0:
                raise error_from_status(
                    Status(grpc.StatusCode.RESOURCE_EXHAUSTED, "the server takes no streams")
                )

    async def aclose(self) -> None:
        connections, self._connections = self._connections, []
        for connection in connections:
            await connection.aclose()

    def _least_loaded(self) -> Http2Connection:
        """The connection with the fewest streams, a new one if all are full.

        One that is going away is left to its calls, which keep it alive.
        """
        self._connections = [c for c in self._connections if not c.is_over or c.streams]
        room = [c for c in self._connections if not c.is_over and c.streams < self._limit(c)]
        if not room:
            room = [Http2Connection(self._target, self._block, self._config)]
            self._connections += room
        return min(room, key=lambda c: c.streams)

    def _limit(self, connection: Http2Connection) -> int:
        server = connection.server_max_streams
        known = self._server_max_streams if server is None else server
        return self._config.max_streams if known is None else min(self._config.max_streams, known)
