"""A client of the gateway's own WebSocket protocol: audio in, segments out."""

import asyncio
import ssl
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import aiohttp
import orjson

from perch.core.audio import bytes_to_samples, seconds_to_samples
from perch.core.messages import Final, Notice, Partial
from perch.core.speech import Word

DEFAULT_SERVER = "https://127.0.0.1:8443"
_PLAIN_SERVER = "http://127.0.0.1:8443"
_PROBE_S = 2.0
PATH = "/v1/audio/transcriptions/stream"
SUBPROTOCOL = "perch.v1"

_CLOSING = aiohttp.ClientWSTimeout(ws_close=2.0)
_SCHEMES = {"ws": "ws", "wss": "wss", "http": "ws", "https": "wss", "": "wss"}


class TranscriptionFailed(Exception):
    """What went wrong and what to do next, in words for the person at the terminal."""


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """Which gateway to use and how.

    ``session`` is the ``config`` of the start message. No more than ``ahead_s`` seconds of audio
    are sent beyond what the server acknowledged; a server silent for ``silence_s`` has failed.
    """

    url: str = DEFAULT_SERVER
    api_key: str = field(default="", repr=False)
    tls: ssl.SSLContext | None = None
    session: Mapping[str, object] = field(default_factory=dict)
    ahead_s: float = 20.0
    silence_s: float = 120.0
    connect_s: float = 10.0


def stream_url(server: str) -> str:
    """The WebSocket address that ``server``, given as a person writes it, means.

    Raises:
        ValueError: It is no address of a server.
    """
    parts = urlsplit(server if "://" in server else f"//{server}")
    if parts.scheme not in _SCHEMES or not parts.hostname:
        raise ValueError(f"{server!r} is not a server; write for example {DEFAULT_SERVER}")
    path = parts.path if parts.path.strip("/") else PATH
    return urlunsplit((_SCHEMES[parts.scheme], parts.netloc, path, parts.query, ""))


async def local_server() -> str:
    """The server of this machine: ``perch serve`` speaks TLS on its port, ``perch demo`` does not."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_PROBE_S)) as session:
        for url in (DEFAULT_SERVER, _PLAIN_SERVER):
            with suppress(aiohttp.ClientError, TimeoutError):
                async with session.get(f"{url}/health", ssl=False):
                    return url
    return DEFAULT_SERVER


async def transcribe(
    config: ServerConfig, audio: AsyncIterable[bytes]
) -> AsyncIterator[Partial | Final | Notice]:
    """Send 16 kHz mono PCM and yield what the server makes of it, until it has recognised all.

    Raises:
        TranscriptionFailed: The server cannot be reached, refuses, fails or goes away.
    """
    async with _connected(config) as socket:
        await _say(socket, type="start", config=dict(config.session))
        window = _Window(seconds_to_samples(config.ahead_s))
        sending = asyncio.create_task(_send(socket, audio, window))
        try:
            while (message := await _receive(socket, sending, config))["type"] != "done":
                if message["type"] == "ack":
                    window.acknowledge(seconds_to_samples(message["audio_s"]))
                elif (update := _update(message)) is not None:
                    yield update
        finally:
            sending.cancel()
            await asyncio.wait([sending])


class _Window:
    """Lets audio pass while no more than ``limit`` samples of it are not yet acknowledged."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._sent = 0
        self._acknowledged = 0
        self._moved = asyncio.Event()

    async def pass_(self, samples: int) -> None:
        while self._sent > self._acknowledged and self._sent + samples - self._acknowledged > self._limit:
            self._moved.clear()
            await self._moved.wait()
        self._sent += samples

    def acknowledge(self, position: int) -> None:
        self._acknowledged = max(self._acknowledged, position)
        self._moved.set()


@asynccontextmanager
async def _connected(config: ServerConfig) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    headers = {"Authorization": f"Bearer {config.api_key}"} if config.api_key else {}
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=config.connect_s)
    async with aiohttp.ClientSession(headers=headers, timeout=timeout) as session:
        socket = await _connect(session, config)
        try:
            yield socket
        finally:
            await socket.close()


async def _connect(session: aiohttp.ClientSession, config: ServerConfig) -> aiohttp.ClientWebSocketResponse:
    url = stream_url(config.url)
    try:
        async with asyncio.timeout(config.connect_s):
            return await session.ws_connect(
                url,
                ssl=config.tls or True,
                heartbeat=20,
                timeout=_CLOSING,
                protocols=(SUBPROTOCOL,),
                max_msg_size=0,
            )
    except aiohttp.WSServerHandshakeError as refusal:
        raise TranscriptionFailed(_refused(refusal, url)) from refusal
    except aiohttp.ClientConnectorCertificateError as error:
        raise TranscriptionFailed(
            f"The certificate of {url} is not one this machine trusts. "
            "Name its issuer with --ca FILE, or accept any certificate with --insecure."
        ) from error
    except (aiohttp.ClientSSLError, aiohttp.ServerDisconnectedError) as error:
        raise TranscriptionFailed(
            f"{url} answers, but only one side speaks TLS. Write the server's address with "
            f"{'http' if url.startswith('wss') else 'https'}:// instead."
        ) from error
    except (aiohttp.ClientError, OSError) as error:
        raise TranscriptionFailed(
            f"Nothing answers at {url}. Start a server with `perch serve`, or name another with --server URL."
        ) from error


def _refused(refusal: aiohttp.WSServerHandshakeError, url: str) -> str:
    if refusal.status in {401, 403}:
        return f"{url} wants a valid API key: pass --api-key KEY or set PERCH_API_KEY."
    if refusal.status in {429, 503}:
        after = refusal.headers.get("Retry-After") if refusal.headers is not None else None
        return f"{url} has no room for another stream. Try again {f'in {after} s' if after else 'later'}."
    return f"{url} is no Perch streaming address: it answers HTTP {refusal.status}. Check the --server URL."


async def _say(socket: aiohttp.ClientWebSocketResponse, **message: object) -> None:
    await socket.send_str(orjson.dumps(message).decode())


async def _send(
    socket: aiohttp.ClientWebSocketResponse, audio: AsyncIterable[bytes], window: _Window
) -> None:
    try:
        async for pcm in audio:
            await window.pass_(bytes_to_samples(len(pcm)))
            await socket.send_bytes(pcm)
        await _say(socket, type="stop")
    except (aiohttp.ClientError, ConnectionError):
        return  # the socket is closed; why, its reader knows


async def _receive(
    socket: aiohttp.ClientWebSocketResponse, sending: asyncio.Task[None], config: ServerConfig
) -> dict[str, Any]:
    """The next event. A failure of the sender, such as audio that cannot be decoded, is raised here."""
    receiving = asyncio.ensure_future(socket.receive())
    try:
        while not receiving.done():
            waiting = {receiving, sending} if not sending.done() else {receiving}
            done, _ = await asyncio.wait(
                waiting, timeout=config.silence_s, return_when=asyncio.FIRST_COMPLETED
            )
            if not done:
                raise TranscriptionFailed(
                    f"The server said nothing for {config.silence_s:g} s. Look at its log; `perch check` helps."
                )
            if sending in done:
                sending.result()
        return _event(receiving.result())
    finally:
        receiving.cancel()


def _event(frame: aiohttp.WSMessage) -> dict[str, Any]:
    if frame.type is not aiohttp.WSMsgType.TEXT:
        code = f" (close code {frame.data})" if frame.type is aiohttp.WSMsgType.CLOSE else ""
        raise TranscriptionFailed(f"The server ended the stream before it was done{code}. Try again.")
    message: dict[str, Any] = orjson.loads(frame.data)
    if message["type"] == "error":
        advice = " Trying again may help." if message.get("retryable") else ""
        raise TranscriptionFailed(f"{message['message']} [{message['code']}]{advice}")
    return message


def _update(message: dict[str, Any]) -> Partial | Final | Notice | None:
    match message["type"]:
        case "partial":
            return Partial(
                message["segment"],
                message["text"],
                seconds_to_samples(message["start"]),
                seconds_to_samples(message["end"]),
                message.get("stability", 0.0),
            )
        case "final":
            return Final(
                message["segment"],
                message["text"],
                seconds_to_samples(message["start"]),
                seconds_to_samples(message["end"]),
                tuple(map(_word, message.get("words", ()))),
                message.get("confidence"),
                message.get("language", ""),
            )
        case "notice":
            return Notice(message["code"], message["message"])
        case "ready" if message.get("notice"):
            return Notice("backend", message["notice"])
    return None


def _word(word: dict[str, Any]) -> Word:
    return Word(
        word["word"],
        seconds_to_samples(word["start"]),
        seconds_to_samples(word["end"]),
        word.get("confidence"),
        word.get("speaker"),
    )
