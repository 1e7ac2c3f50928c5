"""What an engine server may be told, with its defaults."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ServerTls:
    """PEM bytes. With ``client_ca``, clients must show a certificate signed by it (mTLS)."""

    certificate: bytes
    key: bytes
    client_ca: bytes | None = None


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Where the engine listens and what it allows. Port 0 means any free one."""

    host: str = "127.0.0.1"
    port: int = 50051
    tls: ServerTls | None = None
    api_key: str | None = None
    slots: int | None = None
    """Streams at the same time; None, or more than the recogniser has, means all it has."""
    accept_any_model: bool = True
    max_message_bytes: int = 64 * 1024 * 1024
    """Of one request: a whole file for ``Recognize``."""
    recordings: int | None = None
    """Recordings at the same time, which take no slot; None is as many as keep the recogniser busy."""
    spare_rpcs: int = 64
    """Calls at the same time beyond slots and recordings: health checks, model lists, refusals under way."""
    voice_timeout_s: float = 30.0
    """Longest wait for any one answer of the recogniser."""
    stop_grace_s: float = 5.0
    """How long open streams may go on after ``stop``."""
    keepalive_s: float = 20.0
    """How often a silent connection is asked whether it is still there."""
    min_ping_interval_s: float = 5.0
    """Clients may ping this often, with or without a call, before the connection is closed on them."""
    idle_sequence_s: float | None = None
    """Fail a stream on the first message after this long without audio, as Triton behind Riva does."""
