"""Connections to one endpoint: of our own HTTP/2 for streams, of grpcio for all else.

One HTTP/2 connection carries as many streams as its server allows, and gRPC queues the next one without a
word; so streams are spread over several connections, each with a cap below the usual limit of 100.
"""

import ssl
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import grpc
import grpc.aio

from perch import errors
from perch.asr.call import Call, GrpcAioCall
from perch.asr.http2.calls import Http2Calls
from perch.asr.http2.connection import ConnectionConfig
from perch.asr.http2.dial import TlsFiles, target_of
from perch.asr.http2.keepalive import KeepaliveConfig
from perch.riva.proto import STREAMING_RECOGNIZE

_KEEPALIVE_TIMEOUT_S = 10.0

Metadata = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class ChannelConfig:
    """How to connect. With no file set and ``tls`` false the connection is in clear text."""

    transport: Literal["http2", "grpc"] = "http2"
    """What carries streams: Perch's own HTTP/2, or grpcio's, which costs more."""
    tls: bool = False
    root_cert: Path | None = None
    client_cert: Path | None = None
    client_key: Path | None = None
    server_name: str = ""
    """The name to expect in the server's certificate, if not the host's own."""
    streams_per_channel: int = 80
    keepalive_s: float = 20.0
    max_message_bytes: int = 64 << 20
    options: Mapping[str, str | int] = field(default_factory=dict)
    """For grpcio."""

    @property
    def is_secure(self) -> bool:
        return self.tls or any((self.root_cert, self.client_cert, self.client_key))


class Calls(Protocol):
    """Streaming calls to one endpoint, over as many connections as they need."""

    @property
    def streams(self) -> list[int]:
        """How many calls each connection carries."""
        ...

    def call(self, metadata: Metadata = ()) -> AbstractContextManager[Call]:
        """A call, not yet connected, with ``metadata`` besides that of all calls; cancelled at the end of the
        block if it still goes on.
        """
        ...

    async def aclose(self) -> None: ...


class Channels:
    """The connections to one endpoint, opened as they are needed and kept.

    Raises:
        EngineRefused: ``config`` or ``metadata`` cannot be used; the cause says why.
    """

    def __init__(self, address: str, config: ChannelConfig, metadata: Metadata = ()) -> None:
        try:
            self._grpc = GrpcCalls(address, config, metadata)
            self._calls: Calls = (
                self._grpc if config.transport == "grpc" else _http2_calls(address, config, metadata)
            )
        except ValueError as error:
            raise errors.EngineRefused(
                f"The gateway cannot connect to the speech engine: {error}."
            ) from error

    @property
    def streams(self) -> list[int]:
        """How many streaming calls each connection carries."""
        return self._calls.streams

    def call(self, metadata: Metadata = ()) -> AbstractContextManager[Call]:
        """A streaming call, not yet connected; cancelled at the end of the block if it still goes on."""
        return self._calls.call(metadata)

    def unary(self) -> AbstractContextManager[grpc.aio.Channel]:
        """Grpcio's channel, for one call that is no stream."""
        return self._grpc.unary()

    async def aclose(self) -> None:
        await self._grpc.aclose()
        await self._calls.aclose()


@dataclass(eq=False, slots=True)
class _Channel:
    connection: grpc.aio.Channel
    recognize: grpc.aio.StreamStreamMultiCallable
    streams: int = 0


class GrpcCalls:
    """Calls over ``grpc.aio``."""

    def __init__(self, address: str, config: ChannelConfig, metadata: Metadata) -> None:
        self._address = address
        self._config = config
        self._metadata = metadata
        self._credentials = _credentials(config)
        self._channels: list[_Channel] = []

    @property
    def streams(self) -> list[int]:
        return [channel.streams for channel in self._channels]

    @contextmanager
    def call(self, metadata: Metadata = ()) -> Iterator[GrpcAioCall]:
        with self._lease() as channel:
            call = GrpcAioCall(channel.recognize(metadata=(*self._metadata, *metadata)))
            try:
                yield call
            finally:
                call.cancel()

    @contextmanager
    def unary(self) -> Iterator[grpc.aio.Channel]:
        with self._lease() as channel:
            yield channel.connection

    async def aclose(self) -> None:
        channels, self._channels = self._channels, []
        for channel in channels:
            await channel.connection.close(grace=None)

    @contextmanager
    def _lease(self) -> Iterator[_Channel]:
        """The least loaded connection, with one more stream counted on it while the block runs."""
        channel = min(self._channels, key=lambda c: c.streams, default=None)
        if channel is None or channel.streams >= self._config.streams_per_channel:
            channel = self._open()
        channel.streams += 1
        try:
            yield channel
        finally:
            channel.streams -= 1

    def _open(self) -> _Channel:
        options = _options(self._config)
        if self._credentials is None:
            connection = grpc.aio.insecure_channel(self._address, options=options)
        else:
            connection = grpc.aio.secure_channel(self._address, self._credentials, options=options)
        # No serialisers: requests are framed by riva.wire, responses parsed only when they hold something.
        channel = _Channel(connection, connection.stream_stream(STREAMING_RECOGNIZE))
        self._channels.append(channel)
        return channel


def _http2_calls(address: str, config: ChannelConfig, metadata: Metadata) -> Http2Calls:
    tls = TlsFiles(config.root_cert, config.client_cert, config.client_key) if config.is_secure else None
    return Http2Calls(
        target_of(address, tls=tls, server_name=config.server_name),
        STREAMING_RECOGNIZE,
        metadata,
        ConnectionConfig(
            max_streams=config.streams_per_channel,
            keepalive=KeepaliveConfig(config.keepalive_s, _KEEPALIVE_TIMEOUT_S),
        ),
        max_message_bytes=config.max_message_bytes,
    )


def _credentials(config: ChannelConfig) -> grpc.ChannelCredentials | None:
    files = (config.root_cert, config.client_key, config.client_cert)
    if not config.is_secure:
        return None
    if bool(config.client_cert) != bool(config.client_key):
        raise ValueError("mTLS needs both a client certificate and its key")
    _check_files(config)
    root, key, cert = (None if path is None else path.read_bytes() for path in files)
    return grpc.ssl_channel_credentials(root, key, cert)


def _check_files(config: ChannelConfig) -> None:
    """Grpcio would find out about a pair that does not fit with each connection, and only then."""
    context = ssl.create_default_context(cafile=config.root_cert)
    try:
        if config.client_cert is not None:
            context.load_cert_chain(config.client_cert, config.client_key)
    except ssl.SSLError as error:
        raise ValueError(f"the client certificate and its key do not fit ({error.reason})") from error


def _options(config: ChannelConfig) -> list[tuple[str, str | int]]:
    options: dict[str, str | int] = {
        "grpc.use_local_subchannel_pool": 1,
        "grpc.keepalive_time_ms": round(config.keepalive_s * 1000),
        "grpc.keepalive_timeout_ms": round(_KEEPALIVE_TIMEOUT_S * 1000),
        "grpc.max_receive_message_length": config.max_message_bytes,
        "grpc.max_send_message_length": config.max_message_bytes,
        "grpc.enable_retries": 0,  # a retry below us would send audio twice
        **config.options,
    }
    if config.server_name:
        options["grpc.ssl_target_name_override"] = config.server_name
    return list(options.items())
