"""gRPC channels to one endpoint.

One HTTP/2 connection carries as many streams as its server allows, and gRPC queues the next one without a
word; so streams are spread over several connections, each with a cap below the usual limit of 100.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import grpc.aio

from perch.riva.proto import STREAMING_RECOGNIZE


@dataclass(frozen=True, slots=True)
class ChannelConfig:
    """How to connect. With no file set and ``tls`` false the connection is in clear text."""

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


@dataclass(eq=False, slots=True)
class Channel:
    """One connection. ``recognize`` opens a streaming call of serialised messages in both directions."""

    grpc: grpc.aio.Channel
    recognize: grpc.aio.StreamStreamMultiCallable
    streams: int = 0


class Channels:
    """The connections to one endpoint, opened as they are needed and kept."""

    def __init__(self, address: str, config: ChannelConfig) -> None:
        self._address = address
        self._config = config
        self._credentials = _credentials(config)
        self._channels: list[Channel] = []

    @contextmanager
    def lease(self) -> Iterator[Channel]:
        """The least loaded connection, with one more stream counted on it while the block runs."""
        channel = min(self._channels, key=lambda c: c.streams, default=None)
        if channel is None or channel.streams >= self._config.streams_per_channel:
            channel = self._open()
        channel.streams += 1
        try:
            yield channel
        finally:
            channel.streams -= 1

    async def aclose(self) -> None:
        channels, self._channels = self._channels, []
        for channel in channels:
            await channel.grpc.close(grace=None)

    def _open(self) -> Channel:
        options = _options(self._config)
        if self._credentials is None:
            connection = grpc.aio.insecure_channel(self._address, options=options)
        else:
            connection = grpc.aio.secure_channel(self._address, self._credentials, options=options)
        # No serialisers: requests are framed by riva.wire, responses parsed only when they hold something.
        channel = Channel(connection, connection.stream_stream(STREAMING_RECOGNIZE))
        self._channels.append(channel)
        return channel


def _credentials(config: ChannelConfig) -> grpc.ChannelCredentials | None:
    files = (config.root_cert, config.client_key, config.client_cert)
    if not config.tls and not any(files):
        return None
    if bool(config.client_cert) != bool(config.client_key):
        raise ValueError("mTLS needs both a client certificate and its key")
    root, key, cert = (None if path is None else path.read_bytes() for path in files)
    return grpc.ssl_channel_credentials(root, key, cert)


def _options(config: ChannelConfig) -> list[tuple[str, str | int]]:
    options: dict[str, str | int] = {
        "grpc.use_local_subchannel_pool": 1,
        "grpc.keepalive_time_ms": round(config.keepalive_s * 1000),
        "grpc.keepalive_timeout_ms": 10_000,
        "grpc.max_receive_message_length": config.max_message_bytes,
        "grpc.max_send_message_length": config.max_message_bytes,
        "grpc.enable_retries": 0,  # a retry below us would send audio twice
        **config.options,
    }
    if config.server_name:
        options["grpc.ssl_target_name_override"] = config.server_name
    return list(options.items())
