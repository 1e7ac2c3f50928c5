"""The pump: one WebSocket ↔ protocol ↔ session ↔ ASR stream.

The only file that knows both a socket and a session. Everything with a rule in it is a call into a pure
object; here are three tasks in one group: from the client, from the engine, and whatever ends the session
from outside (idle time, drain).
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import structlog
from aiohttp import WSMsgType, web

from perch import errors
from perch.asr.base import ASRClient, ASRStream
from perch.audio.decode import StreamDecoder
from perch.core.audio import bytes_to_samples, samples_to_seconds
from perch.core.messages import Audio, Command, Event, Final, Finalize, Notice, Partial, Start, Stop
from perch.core.session import Session, State
from perch.core.speech import Hypothesis
from perch.observability.metrics import Metrics
from perch.protocols.base import WireProtocol
from perch.server.outgoing import ClientWriter

log = structlog.get_logger(__name__)

_CLOSE_TIMEOUT_S = 5.0
_CLOSE_NORMAL = 1000


class _ClientGone(Exception):
    """The socket closed without ``stop``."""


class Socket(web.WebSocketResponse):
    """aiohttp's WebSocket, with a word to the client before it closes over a frame that is too big."""

    before_close: Callable[[int], None] | None = None

    async def close(self, *, code: int = _CLOSE_NORMAL, message: bytes = b"", drain: bool = True) -> bool:
        if self.before_close is not None:
            tell, self.before_close = self.before_close, None
            tell(code)
        return await super().close(code=code, message=message, drain=drain)


@dataclass(slots=True)
class Summary:
    """What a session came to, for the log and the metrics."""

    outcome: str
    audio_s: float
    received_bytes: int
    segments: int


class Connection:
    """One client's session on one socket. Make it, ``await run()``, forget it."""

    def __init__(
        self,
        socket: Socket,
        transport: asyncio.Transport,
        *,
        session: Session,
        protocol: WireProtocol,
        client: ASRClient,
        metrics: Metrics,
        stream_id: str,
        start_grace_s: float,
        on_engine_failure: Callable[[], None],
    ) -> None:
        self.last_heard = time.monotonic()
        self._socket = socket
        self._session = session
        self._protocol = protocol
        self._client = client
        self._metrics = metrics
        self._stream_id = stream_id
        self._start_grace_s = start_grace_s
        self._on_engine_failure = on_engine_failure
        self._writer = ClientWriter(socket, transport, session.outbox, protocol, self._sent)
        self._decoder: StreamDecoder | None = None
        self._stream: ASRStream | None = None
        self._needed = asyncio.Event()
        self._aborted: asyncio.Future[errors.PerchError] = asyncio.get_running_loop().create_future()
        self._arrivals: deque[tuple[int, float]] = deque(maxlen=128)
        self._explained: errors.PerchError | None = None
        self._received = 0
        self._counted = 0

    async def run(self) -> Summary:
        """Serve the session to its end, whatever that is; only cancellation is raised."""
        self._socket.before_close = self._explain_close
        grace = asyncio.get_running_loop().call_later(self._start_grace_s, self._start_by_default)
        outcome = "done"
        try:
            await self._serve()
            await self._close(_CLOSE_NORMAL)
        except _ClientGone:
            outcome = "client_gone" if self._explained is None else self._explained.code
        except errors.PerchError as error:
            outcome = error.code
            await self._fail(error)
        except Exception:
            outcome = errors.InternalError.code
            log.exception("session_broke")
            await self._fail(errors.InternalError("The gateway failed; its log has the details. Try again."))
        finally:
            grace.cancel()
            self._writer.cancel()
            self._aborted.cancel()
        return Summary(
            outcome,
            samples_to_seconds(self._session.accepted),
            self._received,
            self._session.transcript.segments,
        )

    def notify(self, code: str, message: str) -> None:
        """Tell the client something it need not act on."""
        if self._session.state is not State.CLOSED:
            self._session.receive_notice(code, message)
            self._writer.flush()

    def abort(self, error: errors.PerchError) -> None:
        """End the session from outside."""
        if not self._aborted.done():
            self._aborted.set_result(error)

    # --- the three tasks -----------------------------------------------------------------------------

    async def _serve(self) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                from_client = tasks.create_task(self._from_client())
                from_outside = tasks.create_task(self._from_outside())
                await self._from_engine()
                from_client.cancel()
                from_outside.cancel()
        except BaseExceptionGroup as group:
            raise _first(group) from group

    async def _from_client(self) -> None:
        opening = self._protocol.opening()
        if opening is not None:
            self._receive(opening)
        while True:
            message = await self._socket.receive()
            self.last_heard = time.monotonic()
            if message.type is WSMsgType.BINARY:
                self._received += len(message.data)
                self._receive(self._protocol.decode_binary(message.data))
            elif message.type is WSMsgType.TEXT:
                self._receive(self._protocol.decode_text(message.data))
            else:
                raise _ClientGone

    async def _from_engine(self) -> None:
        await self._needed.wait()
        if self._stream is not None and self._session.accepted:
            await self._stream.run(self._deliver)
        self._session.receive_engine_end()
        self._writer.flush()

    async def _from_outside(self) -> None:
        raise await self._aborted

    # --- client → engine -----------------------------------------------------------------------------

    def _receive(self, command: Command) -> None:
        if self._session.state is State.NEW and isinstance(command, Audio | Finalize | Stop):
            self._receive(self._protocol.implicit_start())
        self._session.receive_command(command)
        match command:
            case Audio(payload):
                self._accept(payload)
            case Start(config):
                self._decoder = StreamDecoder(config.audio)
                self._stream = self._client.stream(config.recognition, stream_id=self._stream_id)
            case Finalize() if self._stream is not None:
                self._stream.finalize()
            case Stop():
                self._stop()
            case _:
                pass
        self._writer.flush()

    def _accept(self, payload: bytes) -> None:
        assert self._decoder is not None
        assert self._stream is not None
        pcm = self._decoder.decode(payload)
        self._stream.send(pcm)
        session = self._session
        session.audio_accepted(bytes_to_samples(len(pcm)), self._stream.lag)
        self._arrivals.append((session.accepted, self.last_heard))
        self._needed.set()
        if session.accepted - self._counted >= 16_000:
            self._count_audio()

    def _stop(self) -> None:
        assert self._decoder is not None
        assert self._stream is not None
        rest = self._decoder.flush()
        if rest:
            self._stream.send(rest)
            self._session.audio_accepted(bytes_to_samples(len(rest)), self._stream.lag)
        self._count_audio()
        self._stream.end()
        self._needed.set()

    def _start_by_default(self) -> None:
        if self._session.state is State.NEW:
            self._receive(self._protocol.implicit_start())

    # --- engine → client -----------------------------------------------------------------------------

    def _deliver(self, heard: Hypothesis | Notice) -> None:
        if isinstance(heard, Notice):
            self._session.receive_notice(heard.code, heard.message)
        else:
            self._session.receive_hypothesis(heard)
        self._writer.flush()

    def _sent(self, event: Event) -> None:
        if isinstance(event, Partial | Final):
            kind = "final" if event.is_final else "partial"
            self._metrics.event_sent(kind, self._latency(event.end))

    def _latency(self, position: int) -> float | None:
        """Seconds since the audio at ``position`` arrived, if that is still remembered."""
        for accepted, arrived in self._arrivals:
            if accepted >= position:
                return time.monotonic() - arrived
        return None

    def _count_audio(self) -> None:
        self._metrics.audio_received(self._session.accepted - self._counted)
        self._counted = self._session.accepted

    # --- the end -------------------------------------------------------------------------------------

    async def _fail(self, error: errors.PerchError) -> None:
        if error.fault == "engine":
            self._metrics.engine_failure(error.code)
            self._on_engine_failure()
        self._session.receive_failure(error)
        await self._close(self._protocol.close_code(error), error.code)

    async def _close(self, code: int, reason: str = "") -> None:
        """Let the client have everything that is queued, then close."""
        self._socket.before_close = None
        try:
            async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                await self._writer.drained()
                await self._socket.close(code=code, message=reason.encode())
        except TimeoutError:
            log.info("client_did_not_read")

    def _explain_close(self, code: int) -> None:
        """Aiohttp closes by itself over a frame it cannot take; say why first."""
        if code == 1009:
            error: errors.PerchError = errors.MessageTooBig(
                "The message is larger than ready.limits.max_message_bytes; send smaller frames."
            )
        elif code in {1002, 1007}:
            error = errors.BadMessage("The WebSocket frame is malformed.")
        else:
            return
        self._explained = error
        self._session.receive_failure(error)
        self._writer.flush()


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The failure that ended the session; what followed from it is kept as its context."""
    failures = list(_leaves(group))
    perch = [failure for failure in failures if isinstance(failure, errors.PerchError)]
    return (perch or failures)[0]


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]
