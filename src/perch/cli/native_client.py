"""A client of the gateway's own WebSocket protocol: audio in, segments out, over as many sockets as it takes.

Positions are samples from the start of the recording. The server counts from the start of *its* session; when
a new one has to begin mid-way, ``_Progress.origin`` is the difference.
"""

import asyncio
import ssl
import time
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import aiohttp
import orjson
from tenacity import (
    AsyncRetrying,
    retry_if_exception_type,
    stop_after_attempt,
    stop_after_delay,
    wait_exponential_jitter,
)

from perch.core.audio import RATE, bytes_to_samples, samples_to_bytes, seconds_to_samples
from perch.core.command import command
from perch.core.messages import Final, Notice, Partial
from perch.core.speech import Word

DEFAULT_SERVER = "https://127.0.0.1:8443"
_PLAIN_SERVER = "http://127.0.0.1:8443"
_PROBE_S = 2.0
_REFUSAL_S = 2.0
_REFUSAL_BYTES = 64 * 1024
PATH = "/v1/audio/transcriptions/stream"
SUBPROTOCOL = "perch.v1"

_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 3.0
_KEPT = 120 * RATE
"""How much of the recording is kept for a session that has to begin anew, at most."""

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
    recording, progress = _Recording(config.ahead_s), _Progress()
    feeding = asyncio.create_task(recording.feed(audio))
    try:
        while not progress.done:
            try:
                async with _connected(config, progress) as socket:
                    async for update in _converse(socket, config, recording, progress, feeding):
                        yield update
            except _Dropped as drop:
                if not progress.may_resume():
                    raise TranscriptionFailed(drop.message) from drop
                await asyncio.sleep(_PAUSE_S)
    finally:
        feeding.cancel()
        await asyncio.wait([feeding])


class _Dropped(Exception):
    """The socket is gone and the session may not be."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class _Recording:
    """The audio that may have to be sent again, and a bound on how far it runs ahead of what is safe."""

    def __init__(self, ahead_s: float) -> None:
        self.base = 0
        """Position of the first sample that is kept."""
        self.end = 0
        self.is_complete = False
        self._ahead = seconds_to_samples(ahead_s)
        self._acknowledged = 0
        self._chunks: deque[bytes] = deque()
        self._moved = asyncio.Event()

    async def feed(self, audio: AsyncIterable[bytes]) -> None:
        async for pcm in audio:
            samples = bytes_to_samples(len(pcm))
            while self.end > self._acknowledged and self.end + samples - self._acknowledged > self._ahead:
                await self.moved()
            self._chunks.append(pcm)
            self.end += samples
            self._move()
        self.is_complete = True
        self._move()

    async def moved(self) -> None:
        """Wait for more audio, or for more of it to be safe."""
        await self._moved.wait()

    def read(self, position: int) -> bytes:
        """From ``position`` to the end of the chunk it is in."""
        start = self.base
        for chunk in self._chunks:
            end = start + bytes_to_samples(len(chunk))
            if position < end:
                return chunk[samples_to_bytes(position - start) :]
            start = end
        return b""

    def acknowledge(self, position: int, settled: int) -> None:
        """``position`` is safe with the server; audio before ``settled`` is never needed again."""
        self._acknowledged = max(self._acknowledged, position)
        needless = min(position - RATE, max(settled, self.end - _KEPT))
        while self._chunks and self.base + bytes_to_samples(len(self._chunks[0])) <= needless:
            self.base += bytes_to_samples(len(self._chunks.popleft()))
        self._move()

    def begin_again(self, position: int) -> None:
        """No server holds any audio after ``position``."""
        self._acknowledged = min(self._acknowledged, position)

    def _move(self) -> None:
        """Wake who waits now; an event that is set and cleared at once does so."""
        self._moved.set()
        self._moved.clear()


class _Progress:
    """How far the server's session is, and how to come back to it."""

    def __init__(self) -> None:
        self.done = False
        self.origin = 0
        """Position in the recording at which the server's session begins."""
        self.segments = 0
        """Segments of the sessions before it."""
        self.settled = 0
        """End of the last final, in the recording."""
        self._finals = 0
        self._token: str | None = None
        self._ttl_s = 0.0
        self._last_seq = 0
        self._heard = time.monotonic()

    @property
    def ttl_s(self) -> float:
        return self._ttl_s

    @property
    def was_connected(self) -> bool:
        return self._ttl_s > 0

    def may_resume(self) -> bool:
        """Whether the server offered to keep the session, and may still have it."""
        return time.monotonic() - self._heard < self._ttl_s

    @property
    def is_resuming(self) -> bool:
        return self._token is not None

    def is_of_another(self, message: dict[str, Any]) -> bool:
        """A slow network: the server began a session of its own before it was asked to resume this one."""
        offer = (message.get("resume") or {}) if message["type"] == "ready" else {}
        return self._token is not None and offer.get("token", self._token) != self._token

    def hello(self, session: Mapping[str, object]) -> dict[str, object]:
        """The first message on a new socket."""
        if self._token is None:
            return {"type": "start", "config": dict(session)}
        return {"type": "resume", "token": self._token, "last_seq": self._last_seq}

    def hear(self, message: dict[str, Any]) -> None:
        self._last_seq = message.get("seq", 0)
        if message["type"] != "ready":
            self._heard = time.monotonic()
        elif message.get("resume"):
            self._token, self._ttl_s = message["resume"]["token"], message["resume"]["ttl_s"]
        if message["type"] == "final":
            self._finals = self.segments + message["segment"] + 1
            self.settled = max(self.settled, self.position(message["end"]))
        self.done = message["type"] == "done"

    def position(self, seconds: float) -> int:
        """In the recording, of a time in the server's session."""
        return self.origin + seconds_to_samples(seconds)

    def begin_again(self, position: int) -> None:
        """The server's session is gone; the next begins at ``position``."""
        self.origin, self.segments = position, self._finals
        self._token, self._last_seq = None, 0


async def _converse(
    socket: aiohttp.ClientWebSocketResponse,
    config: ServerConfig,
    recording: _Recording,
    progress: _Progress,
    feeding: asyncio.Task[None],
) -> AsyncIterator[Partial | Final | Notice]:
    """All that is said on one socket.

    Raises:
        _Dropped: It is gone.
    """
    sending: asyncio.Task[None] | None = None
    try:
        await _say(socket, **progress.hello(config.session))
        if not progress.is_resuming:
            sending = asyncio.create_task(_send(socket, recording, progress.origin))
        while not progress.done:
            message = await _receive(socket, feeding, config)
            if message["type"] == "error" and message["code"] == "resume_unknown":
                begin = max(recording.base, progress.settled)
                recording.begin_again(begin)
                progress.begin_again(begin)
                return
            _check(message)
            if progress.is_of_another(message):
                continue
            progress.hear(message)
            if message["type"] == "ready" and sending is None:
                position = progress.position(message["audio_s"])
                sending = asyncio.create_task(_send(socket, recording, position))
            elif message["type"] == "ack":
                recording.acknowledge(progress.position(message["audio_s"]), progress.settled)
            if (update := _update(message, progress)) is not None:
                yield update
    except (aiohttp.ClientError, ConnectionError) as error:
        raise _Dropped(
            f"The connection to the server is lost ({type(error).__name__}). Try again."
        ) from error
    finally:
        if sending is not None:
            sending.cancel()
            await asyncio.wait([sending])


@asynccontextmanager
async def _connected(
    config: ServerConfig, progress: _Progress
) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    headers = {"Authorization": f"Bearer {config.api_key}"} if config.api_key else {}
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=config.connect_s)
    async with aiohttp.ClientSession(
        headers=headers, timeout=timeout, middlewares=(_check_refusal,)
    ) as session:
        attempts = AsyncRetrying(
            retry=retry_if_exception_type(TranscriptionFailed),
            stop=stop_after_delay(progress.ttl_s) if progress.was_connected else stop_after_attempt(1),
            wait=wait_exponential_jitter(multiplier=_PAUSE_S, max=_LONGEST_PAUSE_S, jitter=_PAUSE_S),
            reraise=True,
        )
        socket: aiohttp.ClientWebSocketResponse = await attempts(_connect, session, config)
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
    except aiohttp.WSServerHandshakeError as error:
        raise TranscriptionFailed(_no_address(url, error.status)) from error
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
            f"Nothing answers at {url}. Start a server with `{command('serve')}`, or name another with --server URL."
        ) from error


async def _check_refusal(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Read why an upgrade is refused, which is in the answer's body: aiohttp's own error does not keep that.

    Raises:
        TranscriptionFailed: It is refused.
    """
    response = await handler(request)
    if response.status >= HTTPStatus.BAD_REQUEST:
        with closing(response):
            told = await _beginning_of(response)
        raise TranscriptionFailed(_refused(str(request.url), response.status, response.headers, told))
    return response


async def _beginning_of(response: aiohttp.ClientResponse) -> bytes:
    """As much of the body as comes in time; where that is not enough to understand, the status has to do."""
    told = bytearray()
    with suppress(TimeoutError, aiohttp.ClientError):
        async with asyncio.timeout(_REFUSAL_S):
            async for piece in response.content.iter_any():
                told += piece
                if len(told) >= _REFUSAL_BYTES:
                    break
    return bytes(told)


def _refused(url: str, status: int, headers: Mapping[str, str], body: bytes) -> str:
    if status == HTTPStatus.UNAUTHORIZED:
        return f"{url} wants a valid API key: pass --api-key KEY or set PERCH_API_KEY."
    if status in {HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED}:
        return _no_address(url, status)
    after = headers.get("Retry-After", "")
    again = f" Try again in {after} s." if after.isdecimal() else ""
    if reason := _reason(body):
        return f"{url} refuses: {reason}{again}"
    if status in {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE}:
        return f"{url} takes no stream now (HTTP {status}).{again or ' Try again later.'}"
    return _no_address(url, status)


def _no_address(url: str, status: int) -> str:
    return f"{url} is no Perch streaming address: it answers HTTP {status}. Check the --server URL."


def _reason(body: bytes) -> str:
    """The words and code of a gateway's refusal; empty if somebody else refused, such as a proxy."""
    try:
        error = orjson.loads(body)["error"]
        return f"{error['message']} [{error['code']}]"
    except (ValueError, KeyError, TypeError):
        return ""


async def _say(socket: aiohttp.ClientWebSocketResponse, **message: object) -> None:
    await socket.send_str(orjson.dumps(message).decode())


async def _send(socket: aiohttp.ClientWebSocketResponse, recording: _Recording, position: int) -> None:
    """Everything from ``position`` on, as it comes, and then ``stop``."""
    try:
        while not recording.is_complete or position < recording.end:
            if pcm := recording.read(position):
                await socket.send_bytes(pcm)
                position += bytes_to_samples(len(pcm))
            else:
                await recording.moved()
        await _say(socket, type="stop")
    except (aiohttp.ClientError, ConnectionError):
        return  # the socket is closed; why, its reader knows


async def _receive(
    socket: aiohttp.ClientWebSocketResponse, feeding: asyncio.Task[None], config: ServerConfig
) -> dict[str, Any]:
    """The next event. A failure of the recording, such as audio that cannot be decoded, is raised here."""
    if feeding.done():
        feeding.result()
    receiving = asyncio.ensure_future(socket.receive())
    try:
        while not receiving.done():
            waiting = {receiving, feeding} if not feeding.done() else {receiving}
            done, _ = await asyncio.wait(
                waiting, timeout=config.silence_s, return_when=asyncio.FIRST_COMPLETED
            )
            if not done:
                raise TranscriptionFailed(
                    f"The server said nothing for {config.silence_s:g} s. Look at its log; `{command('check')}` helps."
                )
            if feeding in done:
                feeding.result()
        return _event(receiving.result())
    finally:
        receiving.cancel()


def _event(frame: aiohttp.WSMessage) -> dict[str, Any]:
    if frame.type is not aiohttp.WSMsgType.TEXT:
        code = f" (close code {frame.data})" if frame.type is aiohttp.WSMsgType.CLOSE else ""
        raise _Dropped(f"The server ended the stream before it was done{code}. Try again.")
    message: dict[str, Any] = orjson.loads(frame.data)
    return message


def _check(message: dict[str, Any]) -> None:
    if message["type"] != "error":
        return
    advice = " Trying again may help." if message.get("retryable") else ""
    text = f"{message['message']} [{message['code']}]{advice}"
    if message["code"] == "going_away":
        raise _Dropped(text)
    raise TranscriptionFailed(text)


def _update(message: dict[str, Any], progress: _Progress) -> Partial | Final | Notice | None:
    match message["type"]:
        case "partial":
            return Partial(
                progress.segments + message["segment"],
                message["text"],
                progress.position(message["start"]),
                progress.position(message["end"]),
                message.get("stability", 0.0),
            )
        case "final":
            return Final(
                progress.segments + message["segment"],
                message["text"],
                progress.position(message["start"]),
                progress.position(message["end"]),
                tuple(_word(word, progress) for word in message.get("words", ())),
                message.get("confidence"),
                message.get("language", ""),
            )
        case "notice":
            return Notice(message["code"], message["message"])
        case "ready" if message.get("notice") and not message.get("audio_s"):
            return Notice("backend", message["notice"])
    return None


def _word(word: dict[str, Any], progress: _Progress) -> Word:
    return Word(
        word["word"],
        progress.position(word["start"]),
        progress.position(word["end"]),
        word.get("confidence"),
        word.get("speaker"),
    )
