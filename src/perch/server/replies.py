"""Errors as HTTP answers."""

from collections.abc import Mapping
from typing import Any

from aiohttp import web

from perch import errors

STATUS = {
    "unauthorized": 401,
    "forbidden": 403,
    "rate_limited": 429,
    "origin_refused": 403,
    "bad_config": 400,
    "bad_message": 400,
    "message_too_big": 413,
    "idle_timeout": 408,
    "at_capacity": 503,
    "going_away": 503,
    "asr_disabled": 503,
    "engine_unavailable": 503,
    "engine_full": 503,
    "engine_timeout": 503,
}
"""HTTP status by error code; any other error of a client is 400, anything else 500."""


def status_of(error: errors.PerchError) -> int:
    return STATUS.get(error.code, 400 if error.fault == "client" else 500)


def described(error: errors.PerchError) -> dict[str, Any]:
    """``error`` as the body of an answer: Perch's own shape."""
    return {
        "error": {
            "code": error.code,
            "message": error.message,
            "retryable": error.retryable,
            "retry_after_s": error.retry_after,
        }
    }


def error_response(
    error: errors.PerchError,
    *,
    status: int | None = None,
    headers: Mapping[str, str] | None = None,
    body: Mapping[str, Any] | None = None,
) -> web.Response:
    """``error`` with the status and headers that belong to it; ``body`` in place of Perch's own shape."""
    every = dict(headers or {})
    if error.retry_after is not None:
        every["Retry-After"] = str(max(1, round(error.retry_after)))
    if error.code == "unauthorized":
        every["WWW-Authenticate"] = 'Bearer realm="perch"'
    return web.json_response(
        described(error) if body is None else body, status=status or status_of(error), headers=every
    )
