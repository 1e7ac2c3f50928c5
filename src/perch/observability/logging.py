"""Structured logs: one line for each thing that happened, with the same fields wherever it came from.

``structlog`` events and the standard library's records (aiohttp, grpc) meet in one handler, whose last
steps are redaction and rendering, so nothing is written that was not looked at for secrets. What the
session lines hold is ``log_schema.json``. Transcripts are never logged.
"""

import logging
import re
import sys
from collections.abc import Collection, Mapping
from typing import Any, Literal, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

REDACTED = "[redacted]"

_SECRET_KEYS = frozenset(
    {
        "authorization",
        "api_key",
        "apikey",
        "x_api_key",
        "token",
        "access_token",
        "password",
        "secret",
        "cookie",
    }
)
_IN_TEXT = re.compile(
    r"(?i)((?:\b(?:api_key|apikey|key|token|access_token|password)=|bearer +|token +(?=[\w.~+/-]{12,})"
    r"|(?:perch-key|openai-insecure-api-key|realtime-token)\.))[^\s&\"',;]+"
)
"""What an access log or an error message may quote: a query parameter, a header, a subprotocol."""
_SHAPES = re.compile(
    r"\b(?:pk_|ek_|sk-|hf_|rpa_|nvapi-)[A-Za-z0-9_-]{16,}|\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"
    r"|\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]{8,}"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----(?s:.*?)(?:-----END [A-Z ]*PRIVATE KEY-----|$)"
)
"""What is a credential by its looks, wherever it stands."""

_SHORTEST_SECRET = 8
"""Characters from which a secret is looked for inside longer text; a shorter one is a word by chance."""


def configure_logging(
    *,
    level: str,
    fmt: Literal["json", "pretty"],
    stream: TextIO | None = None,
    secrets: Collection[str] = (),
) -> None:
    """Send every log line of this process to ``stream`` (standard error by default).

    Args:
        level: ``debug``, ``info``, ``warning`` or ``error``, in either case.
        fmt: ``json`` for machines, ``pretty`` for a terminal.
        stream: Where lines go.
        secrets: Values that must never be written, such as the configured API keys.

    Raises:
        ValueError: There is no such level.
    """
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.UnicodeDecoder(),
    ]
    target = sys.stderr if stream is None else stream
    handler = logging.StreamHandler(target)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                Redaction(secrets),
                _renderer(fmt, colors=target.isatty()),
            ],
        )
    )
    root = logging.getLogger()
    root.setLevel(level.upper())
    root.handlers[:] = [handler]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
    )


def _renderer(fmt: Literal["json", "pretty"], *, colors: bool) -> Processor:
    if fmt == "json":
        return structlog.processors.JSONRenderer()
    return structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=structlog.dev.plain_traceback)


class Redaction:
    """Takes secrets out of an event: by the name of a field, by a known value, by how text quotes one.

    Args:
        secrets: Values that must never be written.
    """

    def __init__(self, secrets: Collection[str] = ()) -> None:
        self._exact = frozenset(filter(None, secrets))
        inside = sorted(
            (re.escape(value) for value in self._exact if len(value) >= _SHORTEST_SECRET), key=len
        )
        self._inside = re.compile("|".join(reversed(inside))) if inside else None

    def __call__(self, _logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        return {key: self._field(key, value) for key, value in event.items()}

    def _field(self, key: str, value: Any) -> Any:
        return REDACTED if key.lower().replace("-", "_") in _SECRET_KEYS else self._value(value)

    def _value(self, value: Any) -> Any:
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, Mapping):
            return {str(key): self._field(str(key), item) for key, item in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [self._value(item) for item in value]
        if value is None or isinstance(value, int | float):
            return value
        return self._text(repr(value))

    def _text(self, text: str) -> str:
        if text in self._exact:
            return REDACTED
        if self._inside is not None:
            text = self._inside.sub(REDACTED, text)
        return _SHAPES.sub(REDACTED, _IN_TEXT.sub(rf"\g<1>{REDACTED}", text))
