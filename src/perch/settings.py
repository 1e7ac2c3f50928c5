"""Environment, ``.env`` and ``*_FILE`` secrets → the components' frozen configurations, once.

Only entry points import this. docs/reference/settings.md and .env.example are checked against it.
"""

import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from perch.asr.attempt import AttemptTimeouts
from perch.asr.channels import ChannelConfig
from perch.asr.riva_client import RivaConfig
from perch.asr.stream import StreamConfig
from perch.core.messages import Backend, Limits, SessionConfig
from perch.core.speech import RecognitionConfig
from perch.errors import BadConfig
from perch.server.config import (
    AccessConfig,
    AdmissionConfig,
    FetchConfig,
    GatewayConfig,
    JwtConfig,
    RateConfig,
    ResumeConfig,
    TlsConfig,
    WebhookConfig,
)
from perch.server.secrets_manager import SecretUnavailable, resolve

_SECRET_LISTS = ("perch_api_keys", "riva_api_key", "riva_metadata")
_SECRETS = (*_SECRET_LISTS, "perch_token_key", "perch_jwt_key", "perch_limits_redis_url", "perch_webhook_key")
_LOOPBACK = {"127.0.0.1", "::1", "localhost"}


class InvalidSettings(Exception):
    """Names every bad setting in one message."""


class Settings(BaseSettings):
    """All settings. The name in upper case is the environment variable."""

    model_config = SettingsConfigDict(
        env_file=".env", env_ignore_empty=True, extra="ignore", case_sensitive=False
    )

    perch_host: str = Field(
        "127.0.0.1", description="Address to listen on. Beyond loopback, callers must be asked who they are."
    )
    perch_port: int = Field(8443, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    perch_reuse_port: bool = Field(False, description="SO_REUSEPORT: several gateway processes on one port.")
    perch_tls: bool = Field(True, description="Serve HTTPS and WSS; false serves plain HTTP and WS.")
    perch_tls_cert: Path | None = Field(
        None, description="Certificate chain (PEM). Unset: a self-signed one is made."
    )
    perch_tls_key: Path | None = Field(None, description="Private key of the certificate (PEM).")
    perch_tls_client_ca: Path | None = Field(
        None, description="CA certificates that client certificates are verified with (PEM): mTLS."
    )
    perch_tls_client_certificates: Literal["optional", "required"] = Field(
        "required",
        description="With PERCH_TLS_CLIENT_CA: whether clients may come without a certificate, by key or JWT.",
    )
    perch_state_dir: Path = Field(
        Path(".perch"),
        description="For the self-signed certificate, and for sessions and tokens between processes.",
    )
    perch_insecure: bool = Field(
        False, description="Allow listening beyond loopback where nobody is asked who it is."
    )
    perch_api_keys: str = Field("", description="API keys clients may use, separated by commas.")
    perch_allowed_origins: str = Field(
        "", description="Origins of other pages that may connect, separated by commas; * allows all."
    )
    perch_backend: Literal["auto", "riva", "engine", "mock"] = Field(
        "auto",
        description="What recognises: riva (RIVA_HOST), engine (started beside the gateway), mock. auto: riva if RIVA_HOST is set, else engine.",
    )
    asr_enabled: bool = Field(
        True, description="false refuses every session politely: the operator's off switch."
    )

    perch_key_store: Path | None = Field(
        None, description="File of hashed API keys with scopes and limits; perch keys makes and changes it."
    )
    perch_token_key: str = Field(
        "", description="Signs browser tokens, 32 bytes or more. Unset: one is made in PERCH_STATE_DIR."
    )
    perch_jwt_issuer: str = Field("", description="JWTs that let callers in: their iss. Empty: none do.")
    perch_jwt_audience: str = Field("", description="JWTs: the aud they must have.")
    perch_jwt_jwks_url: str = Field("", description="JWTs: address of the issuer's keys (JWKS).")
    perch_jwt_key: str = Field(
        "", description="JWTs: the issuer's public key (PEM) or the shared secret, instead of an address."
    )
    perch_jwt_algorithms: str = Field(
        "RS256,ES256,EdDSA", description="JWTs: signature algorithms that count, separated by commas."
    )
    perch_jwt_subject_claim: str = Field("sub", description="JWTs: the claim that says who it is.")
    perch_jwt_scope_claim: str = Field("scope", description="JWTs: the claim that says what it may do.")
    perch_requests_per_min: int | None = Field(
        None, ge=1, description="Requests per minute of each caller whose key says nothing else."
    )
    perch_audio_s_per_min: int | None = Field(
        None, ge=1, description="Seconds of audio per minute of each caller whose key says nothing else."
    )
    perch_failures_per_min: int = Field(
        60, ge=0, description="Wrong credentials per minute from one address; 0 does not count them."
    )
    perch_limits_redis_url: str = Field(
        "", description="redis://… counts the limits per minute of several processes together."
    )
    perch_limits_on_outage: Literal["local", "refuse"] = Field(
        "local", description="Without Redis: count in each process, or refuse new sessions. Open ones go on."
    )

    perch_max_sessions: int = Field(500, ge=1, description="Sessions at the same time in this process.")
    perch_max_sessions_per_key: int = Field(
        500, ge=1, description="Sessions at the same time for one API key."
    )
    perch_max_sessions_per_address: int = Field(
        200, ge=1, description="Sessions at the same time from one address."
    )
    perch_max_message_bytes: int = Field(1 << 20, ge=1024, description="Largest WebSocket message accepted.")
    perch_max_session_s: float = Field(4 * 3600.0, gt=0, description="Longest session, in seconds of audio.")
    perch_idle_timeout_s: float = Field(
        300.0, gt=0, description="Seconds without any message before a session is closed."
    )
    perch_lag_warn_s: float = Field(
        5.0, gt=0, description="Seconds behind the audio at which clients are told."
    )
    perch_lag_limit_s: float = Field(
        1800.0, gt=0, description="Seconds behind the audio at which a session is closed."
    )
    perch_spool_bytes: int = Field(
        64 << 20, ge=1 << 16, description="Audio kept per session until a final covers it."
    )
    perch_max_upload_bytes: int = Field(
        200 << 20, ge=1024, description="Largest recording accepted over HTTP."
    )
    perch_fetch_urls: bool = Field(
        False, description="Fetch recordings over https from public addresses that callers name."
    )
    perch_fetch_hosts: str = Field(
        "", description="Hosts recordings may be fetched from, separated by commas. Empty: any public one."
    )
    perch_webhook_url: str = Field(
        "", description="Where the transcripts of calls are posted. Empty: nowhere."
    )
    perch_webhook_key: str = Field("", description="Shared secret that signs what is posted there.")
    perch_webhook_partials: bool = Field(False, description="Post partials too, not only finals.")
    perch_drain_s: float = Field(
        20.0, ge=0, description="Seconds that open sessions get to finish on SIGTERM."
    )

    perch_resume_ttl_s: float = Field(
        30.0, ge=0, description="Seconds a session waits for a client that lost its socket; 0 keeps none."
    )
    perch_max_parked: int = Field(
        100, ge=1, description="Sessions waiting so at the same time; beyond it the longest waiting one ends."
    )

    perch_engine_recogniser: str = Field(
        "auto",
        description="Recogniser of the engine started beside the gateway: auto is the best model whose weights are here, else embedded.",
    )
    perch_engine_model: str = Field(
        "", description="Model of that engine, by its name in the catalogue or by path, instead."
    )
    perch_models_dir: Path | None = Field(
        None, description="Folder of the models' weights. Unset: ~/.cache/perch/models."
    )
    perch_engine_slots: int | None = Field(
        None,
        ge=1,
        description="Streams that engine takes at the same time. Unset: by its cores, or measured at its start.",
    )
    perch_engine_start_s: float = Field(
        900.0, gt=0, description="Seconds that engine may take to load its model and measure its slots."
    )

    riva_host: str = Field(
        "",
        description="Host of Riva or Speech NIM; several as host:port, separated by commas; "
        "dns:host stands for every address the name has.",
    )
    riva_port: int = Field(50051, ge=1, le=65535, description="gRPC port, where RIVA_HOST names none.")
    riva_ssl: bool = Field(False, description="Use TLS to Riva.")
    riva_ssl_root_cert: Path | None = Field(
        None, description="CA certificates to verify Riva with (PEM). Unset: the system's."
    )
    riva_ssl_client_cert: Path | None = Field(None, description="Client certificate for mTLS (PEM).")
    riva_ssl_client_key: Path | None = Field(None, description="Key of the client certificate (PEM).")
    riva_ssl_server_name: str = Field(
        "", description="Name expected in Riva's certificate, if not its host name."
    )
    riva_api_key: str = Field(
        "", description="Sent to Riva as 'authorization: Bearer …' (an API key or a JWT)."
    )
    riva_metadata: str = Field(
        "", description="More gRPC metadata, as key=value separated by commas (NVCF: function-id=…)."
    )
    riva_model: str = Field(
        "", description="Model for sessions that name none, by any of its names. Empty: Riva chooses."
    )
    riva_language_code: str = Field(
        "en-US",
        description="Language for sessions that name none (BCP-47). A model that does not speak it uses its own.",
    )
    riva_enable_automatic_punctuation: bool = Field(
        True, description="Punctuation for sessions that do not say."
    )
    riva_enable_word_time_offsets: bool = Field(
        True, description="Ask Riva for word times. Segment times and replay rest on them."
    )
    riva_timeout_ms: int = Field(10_000, ge=100, description="Deadline of the RPCs that are not streams.")
    riva_connect_timeout_ms: int = Field(5_000, ge=100, description="Deadline for connecting a stream.")
    riva_outage_s: float = Field(
        30.0, gt=0, description="How long a stream looks for a working engine before it is given up."
    )
    riva_retry_delay_ms: int = Field(
        200, ge=1, description="Delay before the first retry; it doubles, with jitter."
    )
    riva_streams_per_channel: int = Field(
        80, ge=1, description="Streams on one HTTP/2 connection before another is opened."
    )
    perch_grpc_transport: Literal["http2", "grpc"] = Field(
        "http2",
        description="What carries streams to Riva: http2 (Perch's own, cheaper) or grpc (grpcio's, to compare with).",
    )

    perch_log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severe log line."
    )
    perch_log_format: Literal["auto", "json", "pretty"] = Field(
        "auto", description="auto: pretty on a terminal, else JSON."
    )
    perch_log_transcripts: bool = Field(
        False, description="Write the text of finals to the log. Off: no log line holds what was said."
    )
    perch_otlp_endpoint: str = Field(
        "", description="OTLP/gRPC endpoint for traces (needs the otlp extra). Empty: no traces."
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        del settings_cls, file_secret_settings
        return init_settings, env_settings, dotenv_settings

    @field_validator(
        "perch_tls_cert",
        "perch_tls_key",
        "perch_tls_client_ca",
        "perch_key_store",
        "riva_ssl_root_cert",
        "riva_ssl_client_cert",
        "riva_ssl_client_key",
    )
    @classmethod
    def _readable(cls, path: Path | None) -> Path | None:
        if path is not None and not os.access(path, os.R_OK):
            raise ValueError(f"no readable file at {path}")
        return path

    @field_validator("riva_metadata")
    @classmethod
    def _pairs(cls, text: str) -> str:
        _metadata(text)
        return text

    def gateway(self) -> GatewayConfig:
        keys = _list(self.perch_api_keys)
        tls = TlsConfig(
            self.perch_tls_cert,
            self.perch_tls_key,
            self.perch_tls_client_ca,
            self.perch_tls_client_certificates,
        )
        return GatewayConfig(
            host=self.perch_host,
            port=self.perch_port,
            reuse_port=self.perch_reuse_port,
            tls=tls if self.perch_tls else None,
            state_dir=self.perch_state_dir,
            api_keys=keys,
            access=self._access(),
            allowed_origins=_list(self.perch_allowed_origins),
            asr_enabled=self.asr_enabled,
            defaults=SessionConfig(
                recognition=RecognitionConfig(
                    language=self.riva_language_code,
                    model=self.riva_model,
                    punctuation=self.riva_enable_automatic_punctuation,
                )
            ),
            limits=Limits(
                max_message_bytes=self.perch_max_message_bytes,
                max_session_s=self.perch_max_session_s,
                idle_timeout_s=self.perch_idle_timeout_s,
                lag_warn_s=self.perch_lag_warn_s,
                lag_limit_s=self.perch_lag_limit_s,
                spool_bytes=self.perch_spool_bytes,
            ),
            admission=AdmissionConfig(
                self.perch_max_sessions, self.perch_max_sessions_per_key, self.perch_max_sessions_per_address
            ),
            resume=ResumeConfig(self.perch_resume_ttl_s, self.perch_max_parked),
            max_upload_bytes=self.perch_max_upload_bytes,
            fetch=FetchConfig(
                self.perch_fetch_urls,
                tuple(host.lower() for host in _list(self.perch_fetch_hosts)),
                self.perch_max_upload_bytes,
            ),
            webhook=WebhookConfig(
                self.perch_webhook_url, self.perch_webhook_key, self.perch_webhook_partials
            ),
            log_transcripts=self.perch_log_transcripts,
            drain_s=self.perch_drain_s,
        )

    def _access(self) -> AccessConfig:
        return AccessConfig(
            key_store=self.perch_key_store,
            jwt=self.jwt(),
            rate=RateConfig(
                requests_per_min=self.perch_requests_per_min,
                audio_s_per_min=self.perch_audio_s_per_min,
                failures_per_min=self.perch_failures_per_min,
                redis_url=self.perch_limits_redis_url,
                on_outage=self.perch_limits_on_outage,
            ),
            token_secret=self.perch_token_key,
        )

    def jwt(self) -> JwtConfig | None:
        """Which JWTs count, if anything is said of them."""
        if not any(
            (self.perch_jwt_issuer, self.perch_jwt_audience, self.perch_jwt_key, self.perch_jwt_jwks_url)
        ):
            return None
        return JwtConfig(
            issuer=self.perch_jwt_issuer,
            audience=self.perch_jwt_audience,
            key=self.perch_jwt_key,
            jwks_url=self.perch_jwt_jwks_url,
            algorithms=_list(self.perch_jwt_algorithms),
            subject_claim=self.perch_jwt_subject_claim,
            scope_claim=self.perch_jwt_scope_claim,
        )

    def riva(self, *, endpoint: str | None = None) -> RivaConfig:
        """How to talk to Riva, or to the engine of our own at ``endpoint``."""
        own = endpoint is not None
        return RivaConfig(
            endpoints=(endpoint,) if endpoint is not None else self.riva_endpoints(),
            channel=ChannelConfig(
                transport=self.perch_grpc_transport, streams_per_channel=self.riva_streams_per_channel
            )
            if own
            else ChannelConfig(
                transport=self.perch_grpc_transport,
                tls=self.riva_ssl,
                root_cert=self.riva_ssl_root_cert,
                client_cert=self.riva_ssl_client_cert,
                client_key=self.riva_ssl_client_key,
                server_name=self.riva_ssl_server_name,
                streams_per_channel=self.riva_streams_per_channel,
            ),
            api_key="" if own else self.riva_api_key,
            api_key_file=None if own or not (file := os.environ.get("RIVA_API_KEY_FILE")) else Path(file),
            metadata=() if own else _metadata(self.riva_metadata),
            model="" if own else self.riva_model,
            language=self.riva_language_code,
            word_times=own or self.riva_enable_word_time_offsets,
            backend=Backend("engine" if own else "riva", "" if own else self.riva_model),
            rpc_timeout_s=self.riva_timeout_ms / 1000,
            timeouts=AttemptTimeouts(connect_s=self.riva_connect_timeout_ms / 1000),
            stream=StreamConfig(
                spool_bytes=self.perch_spool_bytes,
                outage_s=self.riva_outage_s,
                retry_delay_s=self.riva_retry_delay_ms / 1000,
            ),
        )

    def riva_endpoints(self) -> tuple[str, ...]:
        return tuple(
            host if _has_port(host) else f"{host}:{self.riva_port}" for host in _list(self.riva_host)
        )

    def backend(self) -> Literal["riva", "engine", "mock"]:
        if self.perch_backend != "auto":
            return self.perch_backend
        return "riva" if self.riva_host else "engine"

    def secrets(self) -> tuple[str, ...]:
        """Values that must never be logged."""
        pairs = tuple(value for _, value in _metadata(self.riva_metadata))
        redis = self.perch_limits_redis_url
        others = (
            self.riva_api_key,
            self.perch_webhook_key,
            self.perch_token_key,
            self.perch_jwt_key,
            urlsplit(redis).password,
            redis,
        )
        return tuple(s for s in (*_list(self.perch_api_keys), *others, *pairs) if s)


def load(**overrides: Any) -> Settings:
    """Read the settings; ``overrides`` (from the command line) win, None means not given.

    Raises:
        InvalidSettings: Names every bad value at once.
    """
    given = {name: value for name, value in overrides.items() if value is not None}
    problems = _unknown(os.environ)
    try:
        settings = Settings(**(_secrets_from_elsewhere(os.environ, problems) | given))
        problems += _together(settings)
    except ValidationError as error:
        problems += [
            f"{'.'.join(map(str, item['loc'])).upper()}: {item['msg']} (it is {item['input']!r})"
            if str(item["loc"][0]).lower() not in _SECRETS
            else f"{str(item['loc'][0]).upper()}: {item['msg']}"
            for item in error.errors()
        ]
    if problems:
        raise InvalidSettings("Invalid settings:\n" + "\n".join(f"  - {problem}" for problem in problems))
    return settings


def state_dir() -> Path:
    """Where a gateway started here keeps its certificate; no other setting needs to be valid for that."""
    return _StateDir().perch_state_dir


class _StateDir(BaseSettings):
    model_config = Settings.model_config

    perch_state_dir: Path = Settings.model_fields["perch_state_dir"].default


def _together(settings: Settings) -> list[str]:
    """What is wrong with settings that are each valid alone."""
    problems = []
    if bool(settings.perch_tls_cert) != bool(settings.perch_tls_key):
        problems.append("PERCH_TLS_CERT and PERCH_TLS_KEY must be set together")
    if bool(settings.riva_ssl_client_cert) != bool(settings.riva_ssl_client_key):
        problems.append("RIVA_SSL_CLIENT_CERT and RIVA_SSL_CLIENT_KEY must be set together")
    if settings.perch_backend == "riva" and not settings.riva_host:
        problems.append("PERCH_BACKEND=riva needs RIVA_HOST")
    exposed = settings.perch_host not in _LOOPBACK
    if exposed and settings.gateway().is_open and not settings.perch_insecure:
        problems.append(
            f"PERCH_HOST={settings.perch_host} is reachable from other machines: set PERCH_API_KEYS, "
            "PERCH_KEY_STORE, PERCH_JWT_… or PERCH_TLS_CLIENT_CA, "
            "or say --insecure (PERCH_INSECURE=true) to let anybody in"
        )
    if settings.perch_tls_client_ca and not settings.perch_tls:
        problems.append("PERCH_TLS_CLIENT_CA needs PERCH_TLS")
    problems += _jwt_problems(settings)
    if settings.perch_webhook_url and not settings.perch_webhook_key:
        problems.append(
            "PERCH_WEBHOOK_URL needs PERCH_WEBHOOK_KEY: its receiver must be able to check who posts"
        )
    if urlsplit(settings.perch_webhook_url).scheme not in {"", "http", "https"}:
        problems.append("PERCH_WEBHOOK_URL must begin with https:// or http://")
    return problems


def _jwt_problems(settings: Settings) -> list[str]:
    config = settings.jwt()
    if config is None:
        return []
    from perch.server.jwt_auth import JwtVerifier  # noqa: PLC0415 - only what is used is loaded

    try:
        JwtVerifier(config)
    except BadConfig as error:
        return [error.message]
    return []


def _secrets_from_elsewhere(environment: Mapping[str, str], problems: list[str]) -> dict[str, str]:
    """``NAME_FILE=/path`` or ``NAME_SECRET=aws:ID`` stands for ``NAME``, which stays out of the environment."""
    values = _secrets_from_files(environment, problems)
    for name in _SECRETS:
        variable = f"{name.upper()}_SECRET"
        if reference := environment.get(variable):
            try:
                values[name] = _secret_value(name, resolve(reference))
            except SecretUnavailable as error:
                problems.append(f"{variable}: {error}")
    return values


def _secret_value(name: str, text: str) -> str:
    return ",".join(text.split()) if name in _SECRET_LISTS else text.strip()


def _secrets_from_files(environment: Mapping[str, str], problems: list[str]) -> dict[str, str]:
    values: dict[str, str] = {}
    for name in _SECRETS:
        variable = f"{name.upper()}_FILE"
        if path := environment.get(variable):
            try:
                values[name] = _secret_value(name, Path(path).read_text(encoding="utf-8"))
            except (OSError, UnicodeDecodeError) as error:
                problems.append(f"{variable}: {path} cannot be read ({type(error).__name__})")
    return values


def _unknown(environment: Mapping[str, str]) -> list[str]:
    """A misspelt setting is an error, not a default."""
    known = {name.upper() for name in Settings.model_fields} | {
        f"{name.upper()}_{place}" for name in _SECRETS for place in ("FILE", "SECRET")
    }
    # Read by perch engine, perch transcribe, perch models, and whatever names a command to its user.
    known |= {"PERCH_ENGINE_API_KEY", "PERCH_API_KEY", "PERCH_OFFLINE", "PERCH_COMMAND"}
    allowed_prefixes = ("PERCH_LOAD_", "PERCH_BENCH_", "PERCH_TEST_")
    return [
        f"{name}: there is no such setting"
        for name in sorted(environment)
        if name.startswith("PERCH_") and name not in known and not name.startswith(allowed_prefixes)
    ]


def _list(text: str) -> tuple[str, ...]:
    return tuple(item.strip() for item in text.split(",") if item.strip())


def _metadata(text: str) -> tuple[tuple[str, str], ...]:
    pairs = []
    for item in _list(text):
        key, equals, value = item.partition("=")
        if not equals or not key.strip():
            raise ValueError("must be key=value pairs separated by commas")
        pairs.append((key.strip(), value.strip()))
    return tuple(pairs)


def _has_port(host: str) -> bool:
    host = host.removeprefix("dns:")
    return host.rpartition(":")[2].isdigit() and ("]" in host or host.count(":") == 1)


def example() -> str:
    """The text of ``.env.example``."""
    lines = ["# Every setting with its default. Copy to .env and change what you need.", ""]
    for name, field in Settings.model_fields.items():
        default = "" if field.default is None else field.default
        value = str(default).lower() if isinstance(default, bool) else str(default)
        lines += [f"# {field.description}", f"{name.upper()}={shlex.quote(value) if value else ''}", ""]
        if name in _SECRETS:
            lines[-1:] = [f"# {name.upper()}_FILE=/path/of/a/file/holding/it", ""]
    return "\n".join(lines)
