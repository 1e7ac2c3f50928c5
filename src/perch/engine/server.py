"""The engine's gRPC server: recognition, health and reflection on one port."""

import asyncio
import logging
from typing import Any, Self

import grpc
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from perch.engine.config import EngineConfig, ServerTls
from perch.engine.health import HealthServicer
from perch.engine.scheduler import Room, Scheduler
from perch.engine.service import RecognitionService
from perch.inference.recogniser import Recogniser
from perch.riva.proto import SERVICE, asr_grpc

log = logging.getLogger(__name__)

# A server that is thrown away logs itself from its destructor, at DEBUG: whoever keeps that record, a handler with a
# queue say, keeps a pointer to freed memory (``AioServer.__dealloc__`` in gRPC 1.85).
logging.getLogger("grpc._cython.cygrpc").setLevel(logging.INFO)

HEALTH_SERVICE = "grpc.health.v1.Health"
RECOVERY_CHECK_S = 0.05
"""How often a recogniser that was unhealthy is looked at; its interface announces only the fall."""


class EngineServer:
    """Serves one recogniser, which stays its caller's to close.

    ``start`` once, then ``stop``; ``async with`` does both.
    """

    def __init__(self, recogniser: Recogniser, config: EngineConfig | None = None) -> None:
        self._recogniser = recogniser
        self._config = config or EngineConfig()
        self._server: Any = None
        self._watcher: asyncio.Task[None] | None = None
        self._health = HealthServicer(["", SERVICE])
        self.scheduler = Scheduler(
            recogniser, slots=_slots(recogniser, self._config), timeout_s=self._config.voice_timeout_s
        )
        self._recordings = Room(_recordings(recogniser, self._config), "recordings")
        self.port = 0

    async def start(self) -> int:
        """Bind, serve, and return the port.

        Raises:
            OSError: The address cannot be bound.
        """
        self._server = self._build()
        self.port = self._bind()
        await self._server.start()
        await self._health.set_serving(serving=self._recogniser.healthy)
        self._watcher = asyncio.create_task(self._watch(), name="engine health")
        return self.port

    async def stop(self, grace_s: float | None = None) -> None:
        """Say NOT_SERVING, refuse new calls, let open streams go on for ``grace_s``, then cancel them.

        Calling it again while it waits, with a shorter grace, hurries it.
        """
        if self._server is None:
            return
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.gather(self._watcher, return_exceptions=True)
        await self._health.end()
        await self._server.stop(self._config.stop_grace_s if grace_s is None else grace_s)
        await self.scheduler.aclose()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def address(self) -> str:
        return _address(self._config.host, self.port)

    def _build(self) -> Any:
        server = grpc.aio.server(
            options=_options(self._config),
            maximum_concurrent_rpcs=self.scheduler.slots + self._recordings.most + self._config.spare_rpcs,
        )
        service = RecognitionService(self._recogniser, self.scheduler, self._recordings, self._config)
        asr_grpc.add_RivaSpeechRecognitionServicer_to_server(service, server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        reflection.enable_server_reflection([SERVICE, HEALTH_SERVICE, reflection.SERVICE_NAME], server)
        return server

    def _bind(self) -> int:
        address = _address(self._config.host, self._config.port)
        try:
            if self._config.tls is None:
                port = self._server.add_insecure_port(address)
            else:
                port = self._server.add_secure_port(address, _credentials(self._config.tls))
        except RuntimeError as error:  # gRPC's own class for a failed bind
            raise OSError(f"cannot listen on {address}: {error}") from error
        return int(port)

    async def _watch(self) -> None:
        while True:
            reason = await self._recogniser.wait_unhealthy()
            log.warning("the recogniser is not healthy: %s", reason)
            await self._health.set_serving(serving=False)
            while not self._recogniser.healthy:  # noqa: ASYNC110 there is no event for it
                await asyncio.sleep(RECOVERY_CHECK_S)
            log.info("the recogniser is healthy again")
            await self._health.set_serving(serving=True)


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _slots(recogniser: Recogniser, config: EngineConfig) -> int:
    available = recogniser.capabilities.slots
    return available if config.slots is None else min(config.slots, available)


def _recordings(recogniser: Recogniser, config: EngineConfig) -> int:
    """Some are between two utterances while others are recognised."""
    return max(16, 4 * recogniser.capabilities.recordings) if config.recordings is None else config.recordings


def _credentials(tls: ServerTls) -> Any:
    return grpc.ssl_server_credentials(
        [(tls.key, tls.certificate)],
        root_certificates=tls.client_ca,
        require_client_auth=tls.client_ca is not None,
    )


def _options(config: EngineConfig) -> list[tuple[str, int]]:
    # Names and meanings: grpc/impl/channel_arg_names.h.
    return [
        ("grpc.max_receive_message_length", config.max_message_bytes),
        ("grpc.max_send_message_length", config.max_message_bytes),
        ("grpc.keepalive_time_ms", round(config.keepalive_s * 1000)),
        ("grpc.keepalive_timeout_ms", round(config.keepalive_s * 1000 / 2)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", round(config.min_ping_interval_s * 1000)),
        ("grpc.so_reuseport", 0),  # a second engine on the same port must fail, not share it
    ]
