"""``grpc.health.v1`` for any number of watchers.

The servicer that comes with grpcio-health-checking stops telling all watchers of a service once one of
them leaves (1.81: ``Watch`` deletes the shared condition), and a gateway that watches must not be left
believing in a dead engine. Messages and method tables are still the package's own.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

Status = health_pb2.HealthCheckResponse


class HealthServicer(health_pb2_grpc.HealthServicer):  # type: ignore[misc] # the package has no types
    """One status for every service in ``names``; ``set_serving`` tells all watchers at once."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = frozenset(names)
        self._changed = asyncio.Condition()
        self._is_over = False
        self.serving = False

    async def set_serving(self, *, serving: bool) -> None:
        async with self._changed:
            self.serving = serving
            self._changed.notify_all()

    async def end(self) -> None:
        """Not serving, for good: watchers are told and let go, so that the server need not wait for them."""
        self._is_over = True
        await self.set_serving(serving=False)

    async def Check(self, request: Any, context: Any) -> Any:  # noqa: N802 the name of the RPC
        if request.service not in self._names:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no service named {request.service!r}")
        return Status(status=self._status(request.service))

    async def Watch(self, request: Any, context: Any) -> None:  # noqa: N802
        async for status in self._statuses(request.service):
            await context.write(Status(status=status))

    async def _statuses(self, service: str) -> AsyncIterator[int]:
        told = None
        while not (self._is_over and told == self._status(service)):
            async with self._changed:
                while self._status(service) == told and not self._is_over:
                    await self._changed.wait()
                told = self._status(service)
            yield told

    def _status(self, service: str) -> int:
        if service not in self._names:
            return int(Status.SERVICE_UNKNOWN)
        return int(Status.SERVING if self.serving else Status.NOT_SERVING)
