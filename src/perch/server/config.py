"""Everything the gateway process can be told, in one frozen value."""

from dataclasses import dataclass, field
from pathlib import Path

from perch.core.messages import Limits, SessionConfig


@dataclass(frozen=True, slots=True)
class TlsConfig:
    """The gateway's own certificate. With neither file a self-signed one is made in ``state_dir``."""

    cert: Path | None = None
    key: Path | None = None


@dataclass(frozen=True, slots=True)
class AdmissionConfig:
    """Sessions at the same time: in all, for one API key, from one address."""

    max_sessions: int = 500
    max_sessions_per_key: int = 500
    max_sessions_per_address: int = 200
    retry_after_s: float = 2.0


@dataclass(frozen=True, slots=True)
class ResumeConfig:
    """Sessions that lost their socket: for how long and how many are kept. 0 seconds keeps none."""

    ttl_s: float = 30.0
    max_parked: int = 100


@dataclass(frozen=True, slots=True)
class GatewayConfig:
    """The gateway process."""

    host: str = "127.0.0.1"
    port: int = 8443
    reuse_port: bool = False
    tls: TlsConfig | None = field(default_factory=TlsConfig)
    """None serves plain HTTP."""
    state_dir: Path = Path(".perch")
    static_dir: Path | None = None
    api_keys: tuple[str, ...] = field(default=(), repr=False)
    """With none, nobody is asked for one."""
    allowed_origins: tuple[str, ...] = ()
    """Origins of pages besides the gateway's own; ``*`` allows all."""
    asr_enabled: bool = True
    defaults: SessionConfig = field(default_factory=SessionConfig)
    limits: Limits = field(default_factory=Limits)
    admission: AdmissionConfig = field(default_factory=AdmissionConfig)
    resume: ResumeConfig = field(default_factory=ResumeConfig)
    heartbeat_s: float = 20.0
    request_head_s: float = 15.0
    """A connection that has not sent a whole request by then is ended."""
    start_grace_s: float = 1.0
    """A client that says nothing for this long is told ``ready`` with the defaults."""
    drain_s: float = 20.0
    monitor_s: float = 5.0
