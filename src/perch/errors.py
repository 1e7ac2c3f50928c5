"""The one exception tree.

::

    PerchError
    ├── ClientFault            the caller sent something wrong; sending it again will not help
    │   ├── BadMessage         bad_message: a frame that is not in the protocol
    │   ├── BadConfig          bad_config: a start message or query with an unknown key or impossible value
    │   ├── BadAudio           bad_audio: bytes that cannot be samples of the declared format
    │   ├── MessageTooBig      message_too_big
    │   ├── UrlRefused         url_refused: a recording at an address that is not fetched from
    │   ├── UrlFailed          url_failed: the recording there cannot be had
    │   ├── Unauthorized       unauthorized
    │   ├── Forbidden          forbidden: the credentials are right, and do not allow this
    │   ├── RateLimited        rate_limited: more requests or audio in a minute than the caller may have
    │   ├── OriginRefused      origin_refused
    │   ├── SessionTooLong     session_too_long
    │   ├── IdleTimeout        idle_timeout
    │   ├── LagExceeded        lag_exceeded: audio came faster than the engine takes it, for too long
    │   ├── ResumeUnknown      resume_unknown: the token names no session that can be resumed
    │   ├── LanguageUnsupported  language_unsupported
    │   └── ModelUnavailable   model_unavailable: names the models that exist
    ├── EngineFault            the recogniser failed; retryable unless its configuration is at fault
    │   ├── EngineUnavailable  engine_unavailable
    │   │   └── EngineIdle     engine_unavailable, after too long a silence
    │   ├── EngineTimeout      engine_timeout
    │   ├── EngineFull         engine_full
    │   ├── EngineRefused      engine_refused: credentials or permissions between gateway and engine
    │   └── EngineFailed       engine_failed: the engine broke while recognising
    └── OurFault
        ├── AtCapacity         at_capacity: admission refused, try later or elsewhere
        ├── GoingAway          going_away: this process is draining
        ├── AsrDisabled        asr_disabled: an operator switched recognition off
        └── InternalError      internal_error

Each class has a stable ``code`` for clients and a ``retryable`` hint. The message of a
``PerchError`` is written for the person on the other side and may be sent to clients;
the text of any other exception never is.
"""

from typing import ClassVar, Literal

Fault = Literal["client", "engine", "ours"]


class PerchError(Exception):
    """Base of every error Perch raises on purpose.

    Args:
        message: What happened and what to do next, for the person who caused or met it.
        retry_after: Seconds after which trying again makes sense, when known.
    """

    code: ClassVar[str] = "internal_error"
    fault: ClassVar[Fault] = "ours"
    retryable: ClassVar[bool] = False
    message: str

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after = retry_after


class ClientFault(PerchError):
    fault = "client"
    code = "bad_request"


class BadMessage(ClientFault):
    code = "bad_message"


class BadConfig(ClientFault):
    code = "bad_config"


class BadAudio(ClientFault):
    code = "bad_audio"


class MessageTooBig(ClientFault):
    code = "message_too_big"


class UrlRefused(ClientFault):
    code = "url_refused"


class UrlFailed(ClientFault):
    code = "url_failed"
    retryable = True


class Unauthorized(ClientFault):
    code = "unauthorized"


class Forbidden(ClientFault):
    code = "forbidden"


class RateLimited(ClientFault):
    code = "rate_limited"
    retryable = True


class OriginRefused(ClientFault):
    code = "origin_refused"


class SessionTooLong(ClientFault):
    code = "session_too_long"


class IdleTimeout(ClientFault):
    code = "idle_timeout"
    retryable = True


class LagExceeded(ClientFault):
    code = "lag_exceeded"
    retryable = True


class ResumeUnknown(ClientFault):
    code = "resume_unknown"


class LanguageUnsupported(ClientFault):
    code = "language_unsupported"


class ModelUnavailable(ClientFault):
    code = "model_unavailable"


class EngineFault(PerchError):
    code = "engine_failed"
    fault = "engine"
    retryable = True


class EngineUnavailable(EngineFault):
    code = "engine_unavailable"


class EngineIdle(EngineUnavailable):
    """The engine forgot a stream that was quiet for too long; nothing is wrong with it."""


class EngineTimeout(EngineFault):
    code = "engine_timeout"


class EngineFull(EngineFault):
    code = "engine_full"


class EngineRefused(EngineFault):
    code = "engine_refused"
    retryable = False


class EngineFailed(EngineFault):
    code = "engine_failed"


class OurFault(PerchError):
    pass


class AtCapacity(OurFault):
    code = "at_capacity"
    retryable = True


class GoingAway(OurFault):
    code = "going_away"
    retryable = True


class AsrDisabled(OurFault):
    code = "asr_disabled"


class InternalError(OurFault):
    code = "internal_error"
    retryable = True
