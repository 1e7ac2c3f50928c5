"""Recordings over HTTP: OpenAI's and NIM's ``/v1/audio/transcriptions``, Deepgram's ``POST /v1/listen``."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import orjson
from aiohttp import web

import perch
from perch import errors
from perch.core.messages import Final
from perch.protocols import deepgram, deepgram_query, rest_deepgram, rest_openai
from perch.protocols.base import Request
from perch.server.parts import CONFIG, PARTS
from perch.server.principal import Principal
from perch.server.recordings import Recording
from perch.server.replies import error_response
from perch.server.streams import SCOPE, admitted, credentials, leased
from perch.server.uploads import Upload, uploaded

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_MAX_URL_BODY = 1 << 16


def add_routes(app: web.Application) -> None:
    openai, listen = rest_openai.refusal, deepgram.DIALECT.refusal
    app.router.add_post("/v1/audio/transcriptions", _answering(openai, transcriptions))
    app.router.add_get("/v1/audio/transcriptions/{id}", _answering(openai, transcription))
    app.router.add_post("/v1/audio/translations", _answering(openai, translations))
    app.router.add_post("/v1/listen", _answering(listen, recording))
    app.router.add_get("/v1/health/live", live)
    app.router.add_get("/v1/health/ready", ready)
    app.router.add_get("/v1/metadata", metadata)
    app.router.add_get("/v1/version", version)


def _answering(refusal: Callable[[errors.PerchError], Mapping[str, Any]], handler: Handler) -> Handler:
    """``handler``, whose errors are told in the shape its clients know."""

    async def answer(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except errors.PerchError as error:
            request.app[PARTS].metrics.refused(error.code)
            return error_response(error, body=refusal(error))

    return answer


@asynccontextmanager
async def _counted(
    request: web.Request, caller: Principal | None = None, *, attached: bool = True, **callbacks: Any
) -> AsyncIterator[Recording]:
    """A place among the sessions, for as long as the block runs.

    ``attached`` to its request it ends when the client goes away.
    """
    parts = request.app[PARTS]
    lease = leased(request, caller or await admitted(request))
    recording = Recording(parts.client, lease, request if attached else None, **callbacks)
    parts.sessions.add(recording)
    try:
        yield recording
    finally:
        parts.sessions.discard(recording)
        lease.release()


# --- OpenAI and NIM --------------------------------------------------------------------------------------


async def transcriptions(request: web.Request) -> web.StreamResponse:
    config, parts = request.app[CONFIG], request.app[PARTS]
    if request.content_type != "multipart/form-data":
        raise errors.BadMessage("Send a form (multipart/form-data) with the recording in a part named file.")
    if "respond-async" in request.headers.get("Prefer", ""):
        return await _later(request)
    events: asyncio.Queue[dict[str, Any] | str | None] = asyncio.Queue()
    callbacks: dict[str, Any] = {
        "on_final": events.put_nowait,
        "on_progress": lambda *at: events.put_nowait(_progress(*at)),
    }
    async with (
        _counted(request, **callbacks) as recording,
        uploaded(request, config.max_upload_bytes) as upload,
    ):
        wanted = rest_openai.parse(upload.fields, config.defaults.recognition, parts.monitor.state.models)
        if wanted.stream and wanted.form in {"json", "text"}:
            return await _streamed(request, recording, upload, wanted, events)
        heard = await recording.transcribe(
            upload.file, wanted.recognition, longest_s=config.limits.max_session_s
        )
    body = rest_openai.answer(wanted, heard.channels[0], heard.samples)
    if isinstance(body, str):
        return web.Response(text=body, content_type=rest_openai.content_type(wanted.form))
    return _json(body | _mock(request))


async def _streamed(
    request: web.Request,
    recording: Recording,
    upload: Upload,
    wanted: rest_openai.Wanted,
    events: "asyncio.Queue[Any]",
) -> web.StreamResponse:
    """Server-sent events: each final as it comes, and comments of progress between them."""
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
    longest_s = request.app[CONFIG].limits.max_session_s
    work = asyncio.create_task(recording.transcribe(upload.file, wanted.recognition, longest_s=longest_s))
    work.add_done_callback(lambda _: events.put_nowait(None))
    first = True
    try:
        while (event := await events.get()) is not None:
            if not response.prepared:
                await response.prepare(request)
            if isinstance(event, Final):
                await response.write(_sse(rest_openai.delta(event, first=first) | _mock(request)))
                first = False
            else:
                await response.write(event.encode())
        heard = await work  # before the head is sent an error is still an answer with its status
        if not response.prepared:
            await response.prepare(request)
        await response.write(_sse(rest_openai.done(heard.channels[0], heard.samples) | _mock(request)))
        await response.write(b"data: [DONE]\n\n")
    except errors.PerchError as error:
        if not response.prepared:
            raise
        await response.write(_sse(rest_openai.refusal(error)))
    finally:
        work.cancel()
        await asyncio.wait([work])
    await response.write_eof()
    return response


async def _later(request: web.Request) -> web.Response:
    """Take the recording now, and answer with the id of what becomes of it (RFC 7240)."""
    config, parts = request.app[CONFIG], request.app[PARTS]
    async with AsyncExitStack() as stack:
        caller = await admitted(request)
        recording = await stack.enter_async_context(_counted(request, caller, attached=False))
        upload = await stack.enter_async_context(uploaded(request, config.max_upload_bytes))
        wanted = rest_openai.parse(upload.fields, config.defaults.recognition, parts.monitor.state.models)
        kept = stack.pop_all()  # the place and the file are the job's from here on

        async def work() -> dict[str, Any]:
            async with kept:
                heard = await recording.transcribe(
                    upload.file, wanted.recognition, longest_s=config.limits.max_session_s
                )
            return rest_openai.result(heard.channels[0], heard.samples) | _mock(request)

        job = parts.jobs.start(caller.name, work)
    return web.json_response(job.described(), status=201, headers={"Preference-Applied": "respond-async"})


async def transcription(request: web.Request) -> web.Response:
    """What has become of a transcription that answers later."""
    parts = request.app[PARTS]
    caller = await parts.authenticator.authenticate(credentials(request), SCOPE)
    job = parts.jobs.find(request.match_info["id"], caller.name)
    if job is None:
        missing = errors.BadMessage("There is no transcription of this id.")
        return error_response(missing, status=404, body=rest_openai.refusal(missing))
    return _json(job.described())


def _progress(seconds: float, total_s: float | None) -> str:
    of = "" if total_s is None else f" of {total_s:.1f}"
    return f": {seconds:.1f}{of} s\n\n"


def _sse(body: Mapping[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(body) + b"\n\n"


async def translations(request: web.Request) -> web.StreamResponse:
    await admitted(request)
    error = errors.BadConfig("Translation is not offered here; use /v1/audio/transcriptions.")
    return error_response(error, status=501, body=rest_openai.refusal(error))


# --- Deepgram --------------------------------------------------------------------------------------------


async def recording(request: web.Request) -> web.StreamResponse:
    config, parts = request.app[CONFIG], request.app[PARTS]
    query = list(request.query.items())
    separate, utterances = rest_deepgram.options(query)
    described = Request(
        "",
        now=time.time(),
        new_id=lambda prefix: f"{prefix}{secrets.token_hex(12)}",
        defaults=config.defaults,
        models=parts.monitor.state.models,
    )
    recognition = deepgram_query.recognition(query, described, live=False)
    async with _counted(request) as transcription, _source(request) as upload:
        heard = await transcription.transcribe(
            upload.file, recognition, separate=separate, longest_s=config.limits.max_session_s
        )
    body = rest_deepgram.answer(
        heard.channels,
        heard.samples,
        request_id=described.new_id("rec_"),
        sha256=upload.sha256,
        now=described.now,
        model=recognition.model or parts.monitor.state.backend.model,
        utterances=utterances,
    )
    return _json(body | _mock(request))


@asynccontextmanager
async def _source(request: web.Request) -> AsyncIterator[Upload]:
    """The recording in the body, or the one a ``{"url": …}`` in it names."""
    config, parts = request.app[CONFIG], request.app[PARTS]
    if request.content_type != "application/json":
        async with uploaded(request, config.max_upload_bytes) as upload:
            yield upload
        return
    if (request.content_length or 0) > _MAX_URL_BODY:
        raise errors.MessageTooBig('The body must be {"url": "https://…"}.')
    try:
        url = (await request.json())["url"]
    except (ValueError, KeyError, TypeError) as error:
        raise errors.BadMessage('The body must be {"url": "https://…"}.') from error
    async with parts.fetcher.fetched(str(url)) as upload:
        yield upload


# --- what NIM's clients ask ------------------------------------------------------------------------------


async def live(_: web.Request) -> web.Response:
    return _json({"object": "health.response", "message": "Service is live."})


async def ready(request: web.Request) -> web.Response:
    state = request.app[PARTS].monitor.state
    problem = state.problem or state.missing
    is_open = request.app[PARTS].admission.is_open and request.app[CONFIG].asr_enabled
    if problem is None and is_open:
        return _json({"object": "health.response", "message": "Service is ready."})
    message = problem.message if problem is not None else "The gateway takes no sessions now."
    return web.json_response({"object": "health.response", "message": message}, status=503)


async def metadata(request: web.Request) -> web.Response:
    models = sorted({info.name for info in request.app[PARTS].monitor.state.models})
    info = [{"shortName": name, "modelUrl": ""} for name in models]
    return _json({"version": perch.__version__, "modelInfo": info})


async def version(_: web.Request) -> web.Response:
    return _json({"release": perch.__version__, "api": "1"})


def _mock(request: web.Request) -> dict[str, Any]:
    return {"mock": True} if request.app[PARTS].client.backend.kind == "mock" else {}


def _json(body: Mapping[str, Any]) -> web.Response:
    return web.Response(body=orjson.dumps(body), content_type="application/json")
