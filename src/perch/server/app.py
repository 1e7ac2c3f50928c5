"""``build_app``: routes, middlewares and the life of what they share. Nothing here decides anything else."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson
import structlog
from aiohttp import web

import perch
from perch import errors
from perch.asr.base import ASRClient
from perch.core.messages import Limits, ResumeOffer
from perch.core.session import Session
from perch.core.speech import ModelInfo
from perch.observability.metrics import Metrics
from perch.observability.tracing import Tracing
from perch.protocols.native import VERSION, NativeProtocol
from perch.server.admission import Admission, Lease
from perch.server.auth import KEY_SUBPROTOCOL, Authenticator, check_origin
from perch.server.config import GatewayConfig
from perch.server.connection import Connection, Socket
from perch.server.handoff import Handoff
from perch.server.live import Engine, Exported, LiveSession
from perch.server.monitor import EngineMonitor
from perch.server.resume import Resumption
from perch.server.sessions import OpenSessions
from perch.server.siblings import Siblings

log = structlog.get_logger(__name__)

STREAM_PATH = "/v1/audio/transcriptions/stream"
STREAM_ALIAS = "/ws/transcribe"
_TICK_S = 1.0
_SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; connect-src 'self' ws: wss:; img-src 'self' data:; object-src 'none'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
    ),
    "Permissions-Policy": "microphone=(self)",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_STATUS = {
    "unauthorized": 401,
    "origin_refused": 403,
    "bad_config": 400,
    "bad_message": 400,
    "at_capacity": 503,
    "going_away": 503,
    "asr_disabled": 503,
    "engine_unavailable": 503,
    "engine_full": 503,
    "engine_timeout": 503,
}
"""HTTP status by error code; any other error of a client is 400, anything else 500."""


@dataclass(slots=True)
class Parts:
    """What the handlers share: made by the wiring, owned by the app."""

    client: ASRClient
    metrics: Metrics
    tracing: Tracing
    admission: Admission
    authenticator: Authenticator
    monitor: EngineMonitor
    engine: Engine
    siblings: Siblings
    resumption: Resumption
    sessions: OpenSessions = field(default_factory=OpenSessions)


CONFIG = web.AppKey("config", GatewayConfig)
PARTS = web.AppKey("parts", Parts)


def build_app(
    config: GatewayConfig, client: ASRClient, metrics: Metrics, tracing: Tracing
) -> web.Application:
    """The gateway as an aiohttp application. It closes ``client`` when it ends."""
    app = web.Application(middlewares=[_errors_as_json], handler_args={"auto_decompress": False})
    app[CONFIG] = config
    app[PARTS] = _parts(config, client, metrics, tracing)
    app.router.add_get(STREAM_PATH, stream)
    app.router.add_get(STREAM_ALIAS, stream)
    app.router.add_get("/health", health)
    app.router.add_get("/ready", ready)
    app.router.add_get("/v1/models", models)
    app.router.add_get("/v1/models/{id}", model)
    app.router.add_get("/metrics", metrics_text)
    static = config.static_dir or static_dir()
    if static is not None:
        app.router.add_get("/", page)
        app.router.add_get("/favicon.ico", favicon)
        app.router.add_static("/static/", static)
        app.on_response_prepare.append(_add_page_headers)
    app.cleanup_ctx.append(_close_client)
    app.cleanup_ctx.append(_keep_sessions)
    app.cleanup_ctx.append(_background)
    return app


def _parts(config: GatewayConfig, client: ASRClient, metrics: Metrics, tracing: Tracing) -> Parts:
    monitor = EngineMonitor(client, metrics, config.monitor_s)
    engine = Engine(client, monitor.doubt)
    siblings = Siblings(config.state_dir / "run")

    def restore(exported: Exported, new: LiveSession, token: str) -> LiveSession:
        offer = ResumeOffer(token, config.resume.ttl_s)
        session = Session.restored(exported.session, monitor.state.backend, config.limits, offer)
        return new.replaced_by(session, exported, token)

    return Parts(
        client=client,
        metrics=metrics,
        tracing=tracing,
        admission=Admission(config.admission),
        authenticator=Authenticator(config.api_keys),
        monitor=monitor,
        engine=engine,
        siblings=siblings,
        resumption=Resumption(
            config.resume,
            Handoff(config.state_dir / "sessions", config.resume.ttl_s, siblings),
            restore,
        ),
    )


def static_dir() -> Path | None:
    """The page's files: inside an installed package, or beside ``src`` in a checkout."""
    package = Path(perch.__file__).parent
    for candidate in (package / "static", package.parents[1] / "static"):
        if (candidate / "index.html").is_file():
            return candidate
    return None


# --- the stream --------------------------------------------------------------------------------------


async def stream(request: web.Request) -> web.StreamResponse:
    """One session. Everything that can be refused is refused before the upgrade."""
    config, parts = request.app[CONFIG], request.app[PARTS]
    principal = _admissible(request)
    lease = parts.admission.lease(principal, request.remote or "unknown")
    try:
        if request.headers.get("Upgrade", "").lower() != "websocket":
            lease.release()
            return _must_upgrade()
        socket = Socket(
            protocols=_offered_subprotocols(request),
            heartbeat=config.heartbeat_s,
            compress=False,
            max_msg_size=config.limits.max_message_bytes,
            writer_limit=0,
        )
        await socket.prepare(request)
    except BaseException:
        lease.release()
        raise
    stream_id = request.headers.get("X-Request-ID", "")[:64] or f"st_{secrets.token_hex(8)}"
    with parts.tracing.stream_span(stream_id, request.headers):
        await _serve(request, socket, _new_session(request, stream_id, principal, lease))
    return socket


def _new_session(request: web.Request, stream_id: str, principal: str, lease: Lease) -> LiveSession:
    config, parts = request.app[CONFIG], request.app[PARTS]
    offer = parts.resumption.offer()
    return LiveSession(
        Session(parts.monitor.state.backend, config.limits, offer),
        parts.engine,
        parts.metrics,
        stream_id=stream_id,
        principal=principal,
        lease=lease,
        token="" if offer is None else offer.token,
        remote=request.remote,
    )


async def _serve(request: web.Request, socket: Socket, live: LiveSession) -> None:
    config, parts = request.app[CONFIG], request.app[PARTS]
    transport = request.transport
    if transport is None:
        live.drop()
        return
    connection = Connection(
        socket,
        transport,
        live=live,
        protocol=NativeProtocol(
            live.stream_id,
            defaults=config.defaults,
            query=_settings_query(request),
            mock=parts.client.backend.kind == "mock",
            dumps=_dumps,
        ),
        resumption=parts.resumption,
        start_grace_s=config.start_grace_s,
    )
    parts.sessions.add(connection)
    try:
        await connection.run()
    finally:
        parts.sessions.discard(connection)


def _admissible(request: web.Request) -> str:
    """The caller's name, if it may open a session at all."""
    config, parts = request.app[CONFIG], request.app[PARTS]
    check_origin(request.headers, config.allowed_origins)
    principal = parts.authenticator.principal(request.headers, request.query)
    if not config.asr_enabled:
        raise errors.AsrDisabled("Speech recognition is switched off here by the operator.")
    problem = parts.monitor.state.problem
    if problem is not None and parts.admission.is_open:
        raise errors.EngineUnavailable(problem.message, retry_after=problem.retry_after or 2.0)
    return principal


def _offered_subprotocols(request: web.Request) -> tuple[str, ...]:
    """The subprotocol to select from. A key offered as one is never echoed."""
    offered = [item.strip() for item in request.headers.get("Sec-WebSocket-Protocol", "").split(",")]
    return (VERSION,) if any(item and not item.startswith(KEY_SUBPROTOCOL) for item in offered) else ()


def _settings_query(request: web.Request) -> dict[str, str]:
    return {key: value for key, value in request.query.items() if key != "api_key"}


def _must_upgrade() -> web.Response:
    return _error_response(
        errors.BadMessage("This is a WebSocket endpoint; connect with ws:// or wss://."),
        status=426,
        headers={"Upgrade": "websocket"},
    )


# --- the rest ----------------------------------------------------------------------------------------


async def health(_: web.Request) -> web.Response:
    """Alive: answers without asking anybody."""
    return web.json_response({"status": "ok", "version": perch.__version__})


async def ready(request: web.Request) -> web.Response:
    """Whether a session opened now would be served."""
    config, parts = request.app[CONFIG], request.app[PARTS]
    state = parts.monitor.state
    body: dict[str, Any] = {
        "status": "ready",
        "backend": state.backend.kind,
        "model": state.backend.model,
        "notice": state.backend.notice or None,
        "sessions": parts.admission.active,
        "max_sessions": config.admission.max_sessions,
        "auth_required": parts.authenticator.required,
    }
    if not config.asr_enabled:
        body |= {"status": "disabled", "problem": "recognition is switched off (ASR_ENABLED=false)"}
    elif not parts.admission.is_open:
        body |= {"status": "draining", "problem": "the gateway is shutting down"}
    elif state.problem is not None:
        body |= {"status": "engine_unavailable", "problem": state.problem.message}
    return web.json_response(body, status=200 if body["status"] == "ready" else 503)


async def models(request: web.Request) -> web.Response:
    parts = request.app[PARTS]
    parts.authenticator.principal(request.headers, request.query)
    listed = [_describe(info) for info in _merged(parts.monitor.state.models)]
    return web.json_response({"object": "list", "data": listed})


async def model(request: web.Request) -> web.Response:
    parts = request.app[PARTS]
    parts.authenticator.principal(request.headers, request.query)
    wanted = request.match_info["id"]
    known = _merged(parts.monitor.state.models)
    found = [info for info in known if info.name == wanted]
    if not found:
        names = sorted(info.name for info in known)
        missing = errors.ModelUnavailable(
            f"There is no model {wanted!r}; there is {', '.join(names) or 'none'}."
        )
        return _error_response(missing, status=404)
    return web.json_response(_describe(found[0]))


def _merged(listed: Iterable[ModelInfo]) -> list[ModelInfo]:
    """One entry per name: Riva lists a model once for streams and once for whole files."""
    merged: dict[str, ModelInfo] = {}
    for info in listed:
        known = merged.get(info.name, info)
        merged[info.name] = replace(
            known, streaming=known.streaming or info.streaming, offline=known.offline or info.offline
        )
    return list(merged.values())


def _describe(info: ModelInfo) -> dict[str, Any]:
    return {
        "id": info.name,
        "object": "model",
        "owned_by": "engine",
        "capabilities": {
            "languages": list(info.languages),
            "streaming": info.streaming,
            "offline": info.offline,
            "sample_rate": info.sample_rate,
        },
    }


async def metrics_text(request: web.Request) -> web.Response:
    body, content_type = request.app[PARTS].metrics.render()
    return web.Response(body=body, headers={"Content-Type": content_type})


async def page(request: web.Request) -> web.FileResponse:
    return web.FileResponse(_static(request) / "index.html")


async def favicon(request: web.Request) -> web.FileResponse:
    return web.FileResponse(_static(request) / "favicon.svg")


def _static(request: web.Request) -> Path:
    static = request.app[CONFIG].static_dir or static_dir()
    if static is None:
        raise web.HTTPNotFound
    return static


async def _add_page_headers(request: web.Request, response: web.StreamResponse) -> None:
    if response.status == 101:
        return
    response.headers.update(_SECURITY_HEADERS)
    if request.path == "/" or request.path.startswith("/static/"):
        response.headers["Cache-Control"] = "no-cache"  # an upgrade never mixes old and new modules


# --- errors ------------------------------------------------------------------------------------------

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@web.middleware
async def _errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every refusal is a coded JSON body; nobody is shown the text of an unknown exception."""
    try:
        return await handler(request)
    except errors.PerchError as error:
        request.app[PARTS].metrics.refused(error.code)
        return _error_response(error)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        wrapped = errors.BadMessage(f"{error.reason} ({request.method} {request.path}).")
        return _error_response(wrapped, status=error.status, headers=_allow(error))
    except Exception:
        log.exception("request_broke", path=request.path)
        return _error_response(errors.InternalError("The gateway failed; its log has the details."))


def _allow(error: web.HTTPException) -> dict[str, str]:
    return {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}


def _error_response(
    error: errors.PerchError, *, status: int | None = None, headers: dict[str, str] | None = None
) -> web.Response:
    headers = dict(headers or {})
    if error.retry_after is not None:
        headers["Retry-After"] = str(max(1, round(error.retry_after)))
    if error.code == "unauthorized":
        headers["WWW-Authenticate"] = 'Bearer realm="perch"'
    body = {
        "code": error.code,
        "message": error.message,
        "retryable": error.retryable,
        "retry_after_s": error.retry_after,
    }
    fallback = 400 if error.fault == "client" else 500
    return web.json_response(
        {"error": body}, status=status or _STATUS.get(error.code, fallback), headers=headers
    )


# --- lifetimes ---------------------------------------------------------------------------------------


async def _background(app: web.Application) -> AsyncIterator[None]:
    """The engine monitor and the idle watch, for as long as the app runs."""
    parts = app[PARTS]
    await parts.monitor.check()
    tasks = [
        asyncio.create_task(parts.monitor.run(), name="engine-monitor"),
        asyncio.create_task(_watch_idle(parts, app[CONFIG].limits), name="idle-watch"),
    ]
    yield
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def _watch_idle(parts: Parts, limits: Limits) -> None:
    """One timer for all sessions, instead of one per frame; it notices a stalled event loop too."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + _TICK_S
        await asyncio.sleep(_TICK_S)
        parts.metrics.loop_lag(max(0.0, loop.time() - due))
        silent_since = time.monotonic() - limits.idle_timeout_s
        for connection in parts.sessions:
            if connection.last_heard < silent_since:
                connection.abort(
                    errors.IdleTimeout(
                        f"Nothing was received for {limits.idle_timeout_s:g} s; connect again."
                    )
                )


async def _keep_sessions(app: web.Application) -> AsyncIterator[None]:
    """Hand sessions over to other processes while the app runs; end those that are parked when it ends."""
    parts = app[PARTS]
    try:
        if app[CONFIG].resume.ttl_s > 0:
            async with parts.siblings.listening(parts.resumption.give):
                yield
        else:
            yield
    finally:
        await parts.resumption.aclose()


async def _close_client(app: web.Application) -> AsyncIterator[None]:
    yield
    await app[PARTS].client.aclose()


def _dumps(value: Any) -> str:
    return orjson.dumps(value).decode()
