"""A WebSocket of any dialect: everything that can be refused is refused before the upgrade."""

import secrets
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import orjson
from aiohttp import web

from perch import errors
from perch.core.session import Session
from perch.observability.tracing import StreamSpan
from perch.protocols.base import Dialect, Request, WireProtocol
from perch.server.admission import Lease
from perch.server.auth import Credentials, Principal, check_origin, strip_credentials
from perch.server.connection import Connection
from perch.server.live import LiveSession
from perch.server.observers import Audience
from perch.server.parts import CONFIG, PARTS, Parts
from perch.server.replies import error_response
from perch.server.socket import Socket

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
SCOPE = "transcribe"


def handler(choose: Callable[[web.Request], Dialect]) -> Handler:
    """The handler of a path whose dialect ``choose`` finds out from the request."""

    async def stream(request: web.Request) -> web.StreamResponse:
        dialect = choose(request)
        try:
            return await _stream(request, dialect)
        except errors.PerchError as error:
            request.app[PARTS].metrics.refused(error.code)
            return error_response(error, body=dialect.refusal(error))

    return stream


async def _stream(request: web.Request, dialect: Dialect) -> web.StreamResponse:
    parts = request.app[PARTS]
    principal = await admitted(request)
    _check_room(parts)
    stream_id = request.headers.get("X-Request-ID", "")[:64] or f"st_{secrets.token_hex(8)}"
    lease = leased(request, principal)
    if request.headers.get("Upgrade", "").lower() != "websocket":
        lease.release()
        return _must_upgrade(dialect)
    with parts.tracing.stream_span(stream_id, request.headers) as span:
        try:
            protocol = dialect.open(_described(request, stream_id, span.trace_id))
            socket = await _upgraded(request, dialect, stream_id, span.trace_id)
        except BaseException:
            lease.release()
            raise
        audience = parts.observers.audience(
            stream_id,
            principal.name,
            dialect.name,
            is_observed=dialect.is_observed,
            details=protocol.details,
        )
        live = _new_session(
            request, protocol, audience, span, stream_id=stream_id, principal=principal.name, lease=lease
        )
        await _serve(request, socket, protocol, live)
    return socket


async def admitted(request: web.Request) -> Principal:
    """The caller, if it may open a session at all.

    Raises:
        PerchError: It may not, or nobody may now.
    """
    config, parts = request.app[CONFIG], request.app[PARTS]
    check_origin(request.headers, config.allowed_origins)
    principal = await parts.authenticator.authenticate(credentials(request), SCOPE)
    if not config.asr_enabled:
        raise errors.AsrDisabled("Speech recognition is switched off here by the operator.")
    problem = parts.monitor.state.problem
    if problem is not None and parts.admission.is_open:
        raise errors.EngineUnavailable(problem.message, retry_after=problem.retry_after or 2.0)
    return principal


def _check_room(parts: Parts) -> None:
    """Refuse a stream that the engines have published no slot for, before the upgrade.

    Not while a session is parked: whoever comes may come to take that up, and its slot is held for it.
    """
    if parts.client.room() == 0 and not parts.admission.has_parked:
        raise errors.AtCapacity(
            "The speech engine carries as many streams as it can. Try again shortly.", retry_after=2.0
        )


def leased(request: web.Request, principal: Principal) -> Lease:
    """A place for one session of ``principal``; raises as ``Admission.lease``."""
    parts = request.app[PARTS]
    return parts.admission.lease(
        principal.name,
        request.remote or "unknown",
        max_sessions=principal.limits.sessions,
        spend=partial(parts.authenticator.spend, principal),
    )


def credentials(request: web.Request) -> Credentials:
    """Every place of ``request`` where a credential can be."""
    transport = request.transport
    certificate = transport.get_extra_info("peercert") if transport is not None else None
    return Credentials(
        request.headers,
        request.query,
        request.match_info.get("token", ""),
        certificate,
        request.remote or "",
    )


def _described(request: web.Request, stream_id: str, trace_id: str) -> Request:
    config, parts = request.app[CONFIG], request.app[PARTS]
    state = parts.monitor.state
    return Request(
        stream_id,
        now=time.time(),
        new_id=_new_id,
        query=strip_credentials(request.query.items()),
        headers=request.headers,
        defaults=config.defaults,
        backend=state.backend,
        models=state.models,
        limits=config.limits,
        dumps=_dumps,
        trace_id=trace_id,
    )


async def _upgraded(request: web.Request, dialect: Dialect, stream_id: str, trace_id: str) -> Socket:
    config = request.app[CONFIG]
    socket = Socket(
        protocols=dialect.subprotocols,
        heartbeat=config.heartbeat_s,
        compress=False,
        max_msg_size=max(config.limits.max_message_bytes, dialect.max_message_bytes),
        writer_limit=0,
    )
    socket.headers[dialect.id_header] = stream_id
    socket.headers["X-Trace-ID"] = trace_id
    await socket.prepare(request)
    return socket


def _new_session(
    request: web.Request,
    protocol: WireProtocol,
    audience: Audience,
    span: StreamSpan,
    *,
    stream_id: str,
    principal: str,
    lease: Lease,
) -> LiveSession:
    config, parts = request.app[CONFIG], request.app[PARTS]
    offer = parts.resumption.offer() if protocol.resumable else None
    return LiveSession(
        Session(parts.monitor.state.backend, config.limits, offer),
        parts.engine,
        parts.metrics,
        audience,
        stream_id=stream_id,
        principal=principal,
        lease=lease,
        token="" if offer is None else offer.token,
        remote=request.remote,
        confirms_finalize=protocol.confirms_finalize,
        span=span,
        log_transcripts=config.log_transcripts,
    )


async def _serve(request: web.Request, socket: Socket, protocol: WireProtocol, live: LiveSession) -> None:
    config, parts = request.app[CONFIG], request.app[PARTS]
    transport = request.transport
    if transport is None:
        live.drop()
        return
    connection = Connection(
        socket,
        transport,
        live=live,
        protocol=protocol,
        resumption=parts.resumption,
        start_grace_s=config.start_grace_s,
        idle_timeout_s=config.limits.idle_timeout_s,
    )
    parts.sessions.add(connection)
    try:
        await connection.run()
    finally:
        parts.sessions.discard(connection)


def _must_upgrade(dialect: Dialect) -> web.Response:
    error = errors.BadMessage("This is a WebSocket endpoint; connect with ws:// or wss://.")
    return error_response(error, status=426, headers={"Upgrade": "websocket"}, body=dialect.refusal(error))


def _new_id(prefix: str) -> str:
    return f"{prefix}{secrets.token_hex(12)}"


def _dumps(value: Any) -> str:
    return orjson.dumps(value).decode()
