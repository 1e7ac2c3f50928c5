"""gRPC statuses ↔ errors, in one table for the client's side and one for the engine's.

The texts that distinguish "you asked for a model I do not have" from other invalid arguments are Riva's
own, over several versions.
"""

from dataclasses import dataclass

import grpc

from perch import errors

_MODEL_TEXTS = ("unavailable model requested", "unable to find model", "model not found")
IDLE_SEQUENCE_TEXT = "must specify the start flag"
"""Triton forgot an idle stream; the next chunk on it fails with this (as INVALID_ARGUMENT)."""

_BY_STATUS: dict[grpc.StatusCode, type[errors.PerchError]] = {
    grpc.StatusCode.UNAVAILABLE: errors.EngineUnavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.EngineTimeout,
    grpc.StatusCode.RESOURCE_EXHAUSTED: errors.EngineFull,
    grpc.StatusCode.UNAUTHENTICATED: errors.EngineRefused,
    grpc.StatusCode.PERMISSION_DENIED: errors.EngineRefused,
    grpc.StatusCode.NOT_FOUND: errors.ModelUnavailable,
    grpc.StatusCode.INVALID_ARGUMENT: errors.BadConfig,
    grpc.StatusCode.OUT_OF_RANGE: errors.BadConfig,
    grpc.StatusCode.FAILED_PRECONDITION: errors.BadConfig,
    grpc.StatusCode.UNIMPLEMENTED: errors.EngineRefused,
}

_MESSAGES: dict[type[errors.PerchError], str] = {
    errors.EngineUnavailable: "The speech engine cannot be reached.",
    errors.EngineTimeout: "The speech engine did not answer in time.",
    errors.EngineFull: "The speech engine has no free slot; try again shortly.",
    errors.EngineRefused: "The speech engine refused the gateway; its operator must check RIVA_API_KEY and TLS.",
    errors.EngineFailed: "The speech engine failed while recognising.",
}


@dataclass(frozen=True, slots=True)
class Status:
    """How an RPC ended."""

    code: grpc.StatusCode
    details: str = ""


def error_from_status(status: Status) -> errors.PerchError:
    """The error a failed RPC means. Only configuration errors carry the engine's own words to the client."""
    if IDLE_SEQUENCE_TEXT in status.details.lower():
        return errors.EngineIdle("The speech engine closed an idle stream.")
    if any(text in status.details.lower() for text in _MODEL_TEXTS):
        return errors.ModelUnavailable(status.details.strip())
    kind = _BY_STATUS.get(status.code, errors.EngineFailed)
    if issubclass(kind, errors.ClientFault):
        return kind(status.details.strip() or "The speech engine refused the configuration.")
    return kind(_MESSAGES[kind])


_BY_ERROR: dict[type[errors.PerchError], grpc.StatusCode] = {
    errors.EngineFull: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.EngineUnavailable: grpc.StatusCode.UNAVAILABLE,
    errors.EngineFailed: grpc.StatusCode.UNAVAILABLE,
    errors.EngineTimeout: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.GoingAway: grpc.StatusCode.UNAVAILABLE,
    errors.Unauthorized: grpc.StatusCode.UNAUTHENTICATED,
}


def status_from_error(error: errors.PerchError) -> Status:
    """How the engine reports ``error`` to a Riva client."""
    if isinstance(error, errors.ClientFault):
        code = _BY_ERROR.get(type(error), grpc.StatusCode.INVALID_ARGUMENT)
    else:
        code = _BY_ERROR.get(type(error), grpc.StatusCode.INTERNAL)
    return Status(code, error.message)


def unavailable_model(
    *, language: str, sample_rate: int, kind: str, model: str = ""
) -> errors.ModelUnavailable:
    """Riva's own text for a model it does not have; ``kind`` is ``online`` or ``offline``."""
    named = f"model={model}; " if model else ""
    return errors.ModelUnavailable(
        "Error: Unavailable model requested given these parameters: "
        f"{named}language_code={language}; sample_rate={sample_rate}; type={kind}; "
    )
