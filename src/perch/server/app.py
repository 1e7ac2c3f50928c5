"""``build_app``: routes, middlewares and the life of what they share. Nothing here decides anything else."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import structlog
from aiohttp import web

import perch
from perch import errors
from perch.asr.base import ASRClient
from perch.core.messages import ResumeOffer
from perch.core.session import Session
from perch.core.speech import ModelInfo
from perch.observability.metrics import Metrics
from perch.observability.tracing import Tracing
from perch.server import dialects, observation, realtime_tokens, scrape, transcriptions
from perch.server.admission import Admission
from perch.server.auth import Authenticator
from perch.server.background import Jobs
from perch.server.config import GatewayConfig
from perch.server.fetch import Fetcher
from perch.server.handoff import Handoff
from perch.server.live import Engine, Exported, LiveSession
from perch.server.monitor import EngineMonitor, flag
from perch.server.observers import Observers
from perch.server.parts import CONFIG, PARTS, Parts
from perch.server.reload import watching
from perch.server.replies import error_response
from perch.server.resume import Resumption
from perch.server.siblings import Siblings
from perch.server.streams import credentials
from perch.server.webhooks import Webhooks

log = structlog.get_logger(__name__)

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
_MODELS_SCOPE = "models"
_CREATED = 1_735_689_600
"""OpenAI's clients want a time, and an engine does not say when its model was made: 2025-01-01."""


def build_app(
    config: GatewayConfig, client: ASRClient, metrics: Metrics, tracing: Tracing
) -> web.Application:
    """The gateway as an aiohttp application. It closes ``client`` when it ends."""
    app = web.Application(middlewares=[_errors_as_json], handler_args={"auto_decompress": False})
    app[CONFIG] = config
    metrics.set_session_limit(config.admission.max_sessions)
    app[PARTS] = _parts(config, client, metrics, tracing)
    dialects.add_routes(app)
    realtime_tokens.add_routes(app)
    transcriptions.add_routes(app)
    observation.add_routes(app)
    app.router.add_get("/health", health)
    app.router.add_get("/ready", ready)
    app.router.add_get("/v1/models", models)
    app.router.add_get("/v1/models/{id:.+}", model)
    app.router.add_get("/metrics", metrics_text)
    app.router.add_get("/openapi.json", openapi)
    static = config.static_dir or static_dir()
    if static is not None:
        app.router.add_get("/", page)
        app.router.add_get("/favicon.ico", favicon)
        app.router.add_static("/static/", static)
        app.on_response_prepare.append(_add_page_headers)
    app.cleanup_ctx.append(_close_client)
    app.cleanup_ctx.append(_keep_authenticating)
    app.cleanup_ctx.append(_deliver)
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
        authenticator=Authenticator.of(config, metrics.limits_unavailable),
        monitor=monitor,
        engine=engine,
        siblings=siblings,
        fetcher=Fetcher(config.fetch),
        observers=Observers(Webhooks(config.webhook)),
        jobs=Jobs(),
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


# --- the rest ----------------------------------------------------------------------------------------


async def health(_: web.Request) -> web.Response:
    """Alive: answers without asking anybody."""
    return web.json_response({"status": "ok", "version": perch.__version__})


async def ready(request: web.Request) -> web.Response:
    """Whether a session opened now would be served."""
    config, parts = request.app[CONFIG], request.app[PARTS]
    state = parts.monitor.state
    abilities = state.backend.abilities.get(state.backend.model)
    body: dict[str, Any] = {
        "status": "ready",
        "backend": state.backend.kind,
        "model": state.backend.model,
        "streaming_mode": None if abilities is None else abilities.streaming_mode,
        "partials": None if abilities is None else abilities.partials,
        "notice": state.backend.notice or None,
        "sessions": parts.admission.active,
        "max_sessions": config.admission.max_sessions,
        "engine_room": parts.client.room(),
        "auth_required": parts.authenticator.required,
    }
    if not config.asr_enabled:
        body |= {"status": "disabled", "problem": "recognition is switched off (ASR_ENABLED=false)"}
    elif not parts.admission.is_open:
        body |= {"status": "draining", "problem": "the gateway is shutting down"}
    elif state.problem is not None:
        body |= {"status": "engine_unavailable", "problem": state.problem.message}
    elif state.missing is not None:
        body |= {"status": state.missing.code, "problem": state.missing.message}
    return web.json_response(body, status=200 if body["status"] == "ready" else 503)


async def models(request: web.Request) -> web.Response:
    parts = request.app[PARTS]
    await parts.authenticator.authenticate(credentials(request), _MODELS_SCOPE)
    state = parts.monitor.state
    listed = [_describe(info, state.backend.kind) for info in _merged(state.models)]
    return web.json_response({"object": "list", "data": listed})


async def model(request: web.Request) -> web.Response:
    parts = request.app[PARTS]
    await parts.authenticator.authenticate(credentials(request), _MODELS_SCOPE)
    wanted = request.match_info["id"]
    state = parts.monitor.state
    known = _merged(state.models)
    found = [info for info in known if info.answers_to(wanted)]
    if not found:
        names = sorted(info.name for info in known)
        missing = errors.ModelUnavailable(
            f"There is no model {wanted!r}; there is {', '.join(names) or 'none'}."
        )
        return error_response(missing, status=404)
    return web.json_response(_describe(found[0], state.backend.kind))


def _merged(listed: Iterable[ModelInfo]) -> list[ModelInfo]:
    """One entry per name: Riva lists a model once for streams and once for whole files."""
    merged: dict[str, ModelInfo] = {}
    for info in listed:
        known = merged.get(info.name, info)
        merged[info.name] = replace(
            known, streaming=known.streaming or info.streaming, offline=known.offline or info.offline
        )
    return list(merged.values())


def _describe(info: ModelInfo, backend: str) -> dict[str, Any]:
    """A model as OpenAI's clients know it, and what its engine says of it besides; null is not said."""
    says = info.parameters
    memory = says.get("memory_gb")
    return {
        "id": info.name,
        "object": "model",
        "created": _CREATED,
        "owned_by": "perch",
        "engine": says.get("engine", backend),
        "engine_model": says.get("engine_model"),
        "aliases": list(info.aliases),
        "tier": says.get("tier"),
        "licence": says.get("licence"),
        "capabilities": {
            "languages": list(info.languages),
            "streaming": info.streaming,
            "streaming_mode": says.get("streaming_mode"),
            "partials": flag(says, "partials"),
            "word_timestamps": flag(says, "word_times"),
            "offline": info.offline,
            "sample_rate": info.sample_rate,
            "max_streams": info.slots,
        },
        "resource_hints": {"vram_gb": None if memory is None else float(memory)},
    }


async def metrics_text(request: web.Request) -> web.Response:
    body, content_type = await scrape.exposition(request.app[PARTS], shared=request.app[CONFIG].reuse_port)
    return web.Response(body=body, headers={"Content-Type": content_type})


async def openapi(_: web.Request) -> web.FileResponse:
    """What is offered over HTTP, for tools."""
    return web.FileResponse(Path(__file__).with_name("openapi.json"))


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
        return error_response(error)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        wrapped = errors.BadMessage(f"{error.reason} ({request.method} {request.path}).")
        return error_response(wrapped, status=error.status, headers=_allow(error))
    except Exception:
        log.exception("request_broke", path=request.path)
        return error_response(errors.InternalError("The gateway failed; its log has the details."))


def _allow(error: web.HTTPException) -> dict[str, str]:
    return {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}


# --- lifetimes ---------------------------------------------------------------------------------------


async def _background(app: web.Application) -> AsyncIterator[None]:
    """The engine monitor and the idle watch, for as long as the app runs."""
    parts = app[PARTS]
    await parts.monitor.check()
    tasks = [
        asyncio.create_task(parts.monitor.run(), name="engine-monitor"),
        asyncio.create_task(_watch_idle(parts), name="idle-watch"),
    ]
    yield
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def _watch_idle(parts: Parts) -> None:
    """One timer for all sessions, instead of one per frame; it notices a stalled event loop too."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + _TICK_S
        await asyncio.sleep(_TICK_S)
        parts.metrics.loop_lag(max(0.0, loop.time() - due))
        for connection in parts.sessions:
            connection.check_idle()


async def _keep_sessions(app: web.Application) -> AsyncIterator[None]:
    """Hand sessions over to other processes while the app runs; end those that are parked when it ends."""
    parts = app[PARTS]
    try:
        if app[CONFIG].resume.ttl_s > 0:
            async with parts.siblings.listening(parts.resumption.give, partial(scrape.own, parts)):
                yield
        else:
            yield
    finally:
        await parts.resumption.aclose()


async def _keep_authenticating(app: web.Application) -> AsyncIterator[None]:
    """Take up changes of the key file while the app runs."""
    authenticator = app[PARTS].authenticator
    try:
        async with watching(authenticator):
            yield
    finally:
        await authenticator.aclose()


async def _deliver(app: web.Application) -> AsyncIterator[None]:
    """Post transcripts while the app runs; sessions have ended when it stops, and their last words are in."""
    async with app[PARTS].observers.webhooks.delivering():
        yield


async def _close_client(app: web.Application) -> AsyncIterator[None]:
    yield
    await app[PARTS].jobs.aclose()
    await app[PARTS].client.aclose()
