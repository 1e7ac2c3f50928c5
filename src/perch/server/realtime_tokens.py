"""``POST`` before a realtime WebSocket: the session a client begins with, and a token for its browser.

NVIDIA's client posts ``{}`` and takes only 200. OpenAI's clients mint a secret here and give it to a page.
"""

import secrets
import time
from typing import Any

from aiohttp import web

from perch import errors
from perch.protocols import realtime_sessions as sessions
from perch.protocols.base import Request
from perch.protocols.frames import section, whole
from perch.server.auth import BrowserToken
from perch.server.credentials import presented
from perch.server.parts import CONFIG, PARTS
from perch.server.streams import credentials

SCOPE = "tokens"
_TTL_S = 600
_SHORTEST_S, _LONGEST_S = 10, 7200
_MAX_BODY = 1 << 20


def add_routes(app: web.Application) -> None:
    app.router.add_post("/v1/realtime/transcription_sessions", transcription_sessions)
    app.router.add_post("/v1/realtime/client_secrets", client_secrets)


async def transcription_sessions(request: web.Request) -> web.Response:
    """NIM's session, or OpenAI's of the beta; which one the request says by its header and body."""
    body = await _body(request)
    if "OpenAI-Beta" in request.headers or body:
        token = await _minted(request, _TTL_S)
        session = sessions.OPENAI_BETA.updated(sessions.beta_session(_described(request)), body)
        sessions.OPENAI_BETA.config(session, _described(request))
        return web.json_response(session | {"client_secret": _secret(token)})
    session = sessions.nim_session(_described(request))
    if request.app[PARTS].authenticator.required and presented(credentials(request)):
        session["client_secret"] = _secret(await _minted(request, _TTL_S))
    return web.json_response(session)


async def client_secrets(request: web.Request) -> web.Response:
    """OpenAI's, GA: a token that opens one WebSocket within its life."""
    body = await _body(request)
    wanted = section(body, "expires_after").get("seconds", _TTL_S)
    ttl_s = whole(wanted, _SHORTEST_S, _LONGEST_S)
    if ttl_s is None:
        raise errors.BadConfig(f"expires_after.seconds must be from {_SHORTEST_S} to {_LONGEST_S}.")
    described = _described(request)
    session = sessions.OPENAI_GA.updated(sessions.ga_session(described), section(body, "session"))
    sessions.OPENAI_GA.config(session, described)
    token = await _minted(request, ttl_s)
    return web.json_response({**_secret(token), "session": session})


async def _minted(request: web.Request, ttl_s: float) -> BrowserToken:
    authenticator = request.app[PARTS].authenticator
    principal = await authenticator.authenticate(credentials(request), SCOPE)
    return authenticator.mint(principal, ttl_s)


def _secret(token: BrowserToken) -> dict[str, Any]:
    return {"value": token.value, "expires_at": round(token.expires_at)}


def _described(request: web.Request) -> Request:
    state = request.app[PARTS].monitor.state
    return Request(
        "",
        now=time.time(),
        new_id=lambda prefix: f"{prefix}{secrets.token_hex(12)}",
        defaults=request.app[CONFIG].defaults,
        backend=state.backend,
        models=state.models,
    )


async def _body(request: web.Request) -> dict[str, Any]:
    if request.content_length is not None and request.content_length > _MAX_BODY:
        raise errors.MessageTooBig(f"The body may have at most {_MAX_BODY} bytes.")
    try:
        body = await request.json() if request.can_read_body else {}
    except ValueError as error:
        raise errors.BadMessage("The body must be a JSON object.") from error
    if not isinstance(body, dict):
        raise errors.BadMessage("The body must be a JSON object.")
    return body
