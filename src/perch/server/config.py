"""Everything the gateway process can be told, in one frozen value."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from perch.core.messages import Limits, SessionConfig


@dataclass(frozen=True, slots=True)
class TlsConfig:
    """The gateway's own certificate. With neither file a self-signed one is made in ``state_dir``."""

    cert: Path | None = None
    key: Path | None = None
    client_ca: Path | None = None
    """Verifies the certificates of clients (mTLS); with none they are not asked for one."""
    client_certificates: Literal["optional", "required"] = "required"


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
class JwtConfig:
    """Which JWTs let a caller in: signed by ``key`` (PEM or HMAC secret) or by one of ``jwks_url``'s."""

    issuer: str
    audience: str
    key: str = field(default="", repr=False)
    jwks_url: str = ""
    algorithms: tuple[str, ...] = ("RS256", "ES256", "EdDSA")
    subject_claim: str = "sub"
    scope_claim: str = "scope"
    leeway_s: float = 30.0
    fetch_timeout_s: float = 5.0
    cache_s: float = 300.0
    refresh_s: float = 10.0
    """Seconds between two looks at ``jwks_url``, whatever tokens come."""


@dataclass(frozen=True, slots=True)
class RateConfig:
    """What each caller may use per minute, unless its key says otherwise, and where that is counted."""

    requests_per_min: int | None = None
    audio_s_per_min: int | None = None
    failures_per_min: int = 60
    """Wrong credentials from one address, before it has to wait."""
    redis_url: str = field(default="", repr=False)
    """``redis://…`` counts for several processes together; without, each counts by itself."""
    on_outage: Literal["local", "refuse"] = "local"
    """Without Redis: count in this process, or let no new session in."""
    deadline_s: float = 0.25
    retry_s: float = 5.0


@dataclass(frozen=True, slots=True)
class AccessConfig:
    """Who may come in, beside the ``api_keys``, and how much each may use."""

    key_store: Path | None = None
    jwt: JwtConfig | None = None
    rate: RateConfig = field(default_factory=RateConfig)
    token_secret: str = field(default="", repr=False)
    """Signs browser tokens. Without, ``state_dir`` holds one that its processes share."""


@dataclass(frozen=True, slots=True)
class FetchConfig:
    """Recordings at addresses that callers name."""

    enabled: bool = False
    hosts: tuple[str, ...] = ()
    """Hosts they may be fetched from; with none, any public one."""
    max_bytes: int = 200 << 20
    deadline_s: float = 60.0


@dataclass(frozen=True, slots=True)
class WebhookConfig:
    """Where the transcripts of calls are posted."""

    url: str = ""
    """Empty posts nothing."""
    secret: str = field(default="", repr=False)
    partials: bool = False
    deadline_s: float = 10.0
    retry_s: float = 0.5


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
    """With none here and none of ``access``, nobody is asked for one."""
    access: AccessConfig = field(default_factory=AccessConfig)
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
    max_upload_bytes: int = 200 << 20
    fetch: FetchConfig = field(default_factory=FetchConfig)
    webhook: WebhookConfig = field(default_factory=WebhookConfig)
    log_transcripts: bool = False
    """Write what was said to the log. Off, no line holds any of it."""
    drain_s: float = 20.0
    monitor_s: float = 5.0

    @property
    def is_open(self) -> bool:
        """Whether nobody is asked who it is."""
        by_certificate = self.tls is not None and self.tls.client_ca is not None
        return not (self.api_keys or self.access.key_store or self.access.jwt or by_certificate)
