"""Direct gRPC streams to the engine: what the gateway is compared with.

As light as ``grpc.aio`` allows: serialised requests in, serialised responses out, read when the
measurement is over.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import perf_counter
from typing import Any

import grpc
import grpc.aio
from bench.websocket_client import StreamFailed

from perch.core.speech import RecognitionConfig
from perch.riva.proto import STREAMING_RECOGNIZE
from perch.riva.wire import audio_request, config_request

STREAMS_PER_CHANNEL = 25

_CONFIG = config_request(RecognitionConfig(language="en-US", punctuation=True), "")
_END_S = 30.0

audio_frame = audio_request


class GrpcStream:
    """One streaming call. ``heard`` grows by every response: when it came, and what it was."""

    def __init__(self, call: Any) -> None:
        self.heard: list[tuple[float, bytes]] = []
        self._call = call
        self._listening = asyncio.create_task(self._listen())

    async def open(self) -> None:
        """Connect and configure.

        Raises:
            grpc.aio.AioRpcError: The engine refused.
        """
        await self._call.wait_for_connection()
        await self._call.write(_CONFIG)

    async def send(self, frame: bytes) -> None:
        """Send an ``audio_frame``.

        Raises:
            StreamFailed: The call is over.
        """
        try:
            await self._call.write(frame)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
            raise StreamFailed(f"the engine ended the call: {error}") from error

    async def finish(self) -> None:
        """Half-close, and wait for the end.

        Raises:
            StreamFailed: It ended with anything but OK.
        """
        await self._call.done_writing()
        try:
            async with asyncio.timeout(_END_S):
                await self._listening
        except grpc.aio.AioRpcError as error:
            raise StreamFailed(f"the engine ended the call: {error.details()}") from error

    def abort(self) -> None:
        self._listening.cancel()
        self._call.cancel()

    async def _listen(self) -> None:
        while (response := await self._call.read()) is not grpc.aio.EOF:
            self.heard.append((perf_counter(), response))


class GrpcConnections:
    """Enough channels for many streams."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._channels: list[grpc.aio.Channel] = []
        self._streams = 0

    async def connect(self) -> GrpcStream:
        """A call, ready for audio."""
        if self._streams % STREAMS_PER_CHANNEL == 0:
            options = [("grpc.use_local_subchannel_pool", 1)]
            self._channels.append(grpc.aio.insecure_channel(self._address, options=options))
        self._streams += 1
        stream = GrpcStream(self._channels[-1].stream_stream(STREAMING_RECOGNIZE)())
        await stream.open()
        return stream

    async def aclose(self) -> None:
        for channel in self._channels:
            await channel.close()


@asynccontextmanager
async def connections(address: str) -> AsyncIterator[GrpcConnections]:
    """Connections to the engine at ``host:port``, closed at the end."""
    made = GrpcConnections(address)
    try:
        yield made
    finally:
        await made.aclose()
