"""One bidirectional gRPC call, of serialised messages: the seam between an attempt and its transport.

``GrpcAioCall`` is the transport that comes with grpcio. Every failure of a transport becomes a ``PerchError``
here and nowhere else.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import grpc
import grpc.aio
from grpc._cython import cygrpc

from perch import errors
from perch.riva.status import Status, error_from_status


class Call(Protocol):
    """A call in progress. One task may write while another reads; ``cancel`` ends both."""

    async def connect(self) -> None:
        """Wait until the call has reached the server."""
        ...

    async def write(self, request: bytes) -> None:
        """Send one message, waiting as long as flow control does.

        Raises:
            EngineUnavailable: The call is over; ``read`` raises why.
        """
        ...

    def write_now(self, request: bytes) -> bool:
        """Send one message if that needs no waiting; False, with nothing sent, if it does or cannot be known."""
        ...

    async def half_close(self) -> None:
        """Say that no message will follow."""
        ...

    async def read(self) -> bytes | None:
        """The next message, or None when the server has ended the call well.

        Raises:
            PerchError: It ended otherwise.
        """
        ...

    def cancel(self) -> None:
        """End the call and free it. Safe at any time, more than once."""
        ...


class GrpcAioCall:
    """A ``Call`` over ``grpc.aio``.

    Its own ``write`` reports a message that could not be sent as the status of the whole call, INTERNAL, and
    the server's real status is lost with it. So messages are handed to the layer below, where a failed send
    is only that.
    """

    def __init__(self, call: Any) -> None:
        self._call = call
        self._send = call._cython_call.send_serialized_message  # noqa: SLF001 - see the class's docstring

    async def connect(self) -> None:
        with _statuses():
            await self._call.wait_for_connection()

    async def write(self, request: bytes) -> None:
        try:
            await self._send(request)
        except (cygrpc.InternalError, cygrpc.UsageError, asyncio.InvalidStateError) as error:
            raise errors.EngineUnavailable("The speech engine ended the stream.") from error

    def write_now(self, request: bytes) -> bool:  # noqa: ARG002 - grpcio tells only who waits
        return False

    async def half_close(self) -> None:
        with _statuses():
            await self._call.done_writing()

    async def read(self) -> bytes | None:
        try:
            response = await self._call.read()
        except grpc.aio.AioRpcError as error:
            raise _error(error) from error
        if response is grpc.aio.EOF:
            return None
        message: bytes = response
        return message

    def cancel(self) -> None:
        self._call.cancel()


@contextmanager
def _statuses() -> Iterator[None]:
    try:
        yield
    except grpc.aio.AioRpcError as error:
        raise _error(error) from error
    except asyncio.InvalidStateError as error:
        raise errors.EngineUnavailable("The speech engine ended the stream.") from error


def _error(failure: grpc.aio.AioRpcError) -> errors.PerchError:
    return error_from_status(Status(failure.code(), failure.details() or ""))
