"""What survives the loss of a socket: a session, its audio decoder and its recognition.

A ``Connection`` attaches to it, hands it the client's commands and sends what its outbox holds. Without one
it is parked: recognition goes on and the events wait.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from perch import errors
from perch.asr.base import ASRClient, ASRStream, StreamState
from perch.audio.decode import StreamDecoder
from perch.core.audio import bytes_to_samples, samples_to_seconds
from perch.core.messages import Audio, Command, Event, Final, Finalize, Notice, Partial, Start, Stop
from perch.core.session import Session, SessionSnapshot, State
from perch.core.speech import Hypothesis
from perch.observability.metrics import Metrics
from perch.server.admission import Lease

log = structlog.get_logger(__name__)

BROKEN = "The gateway failed; its log has the details. Try again."


@dataclass(frozen=True, slots=True)
class Engine:
    """What recognises for a session, and who is told when it fails."""

    client: ASRClient
    doubt: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Exported:
    """A session on its way to another process."""

    stream_id: str
    received: int
    session: SessionSnapshot
    stream: StreamState


class LiveSession:
    """One client's session, on whatever socket the client has at the moment."""

    def __init__(
        self,
        session: Session,
        engine: Engine,
        metrics: Metrics,
        *,
        stream_id: str,
        principal: str,
        lease: Lease,
        token: str = "",
        remote: str | None = None,
    ) -> None:
        self.session = session
        self.stream_id = stream_id
        self.principal = principal
        self.lease = lease
        self.token = token
        self.failure: errors.PerchError | None = None
        self.last_heard = time.monotonic()
        self.over = asyncio.Event()
        """Set when nothing more will be recognised: the session is done, failed or given up."""
        self._engine = engine
        self._metrics = metrics
        self._remote = remote
        self._log = log.bind(stream_id=stream_id, backend=engine.client.backend.kind)
        self._decoder: StreamDecoder | None = None
        self._stream: ASRStream | None = None
        self._recognition: asyncio.Task[None] | None = None
        self._arrivals: deque[tuple[int, float]] = deque(maxlen=128)
        self._received = 0
        self._counted = session.accepted
        self._began: float | None = None
        self._closed = False
        self._on_events: Callable[[], None] = _nothing
        self._on_taken: Callable[[], None] = _nothing

    # --- its socket ----------------------------------------------------------------------------------

    def attach(self, on_events: Callable[[], None], on_taken: Callable[[], None]) -> None:
        """From now on call ``on_events`` when there is something to send.

        Whoever was attached before hears so by its ``on_taken``.
        """
        taken = self._on_taken
        self._on_events, self._on_taken = on_events, on_taken
        taken()

    def detach(self) -> None:
        """There is no socket to send to any more."""
        self._on_events = self._on_taken = _nothing

    def resume(self, last_seq: int) -> None:
        """A client that has the events up to ``last_seq`` is back.

        Raises:
            ResumeUnknown: It missed more than is remembered.
        """
        width = self.session.config.audio.encoding.width
        self.session.receive_resume(last_seq, self._received // width)
        if self.failure is not None:
            self.session.receive_failure(self.failure)
        self.last_heard = time.monotonic()
        self._log.info("session_resumed")

    # --- client → engine -----------------------------------------------------------------------------

    def receive(self, command: Command) -> None:
        """Do what the client asks.

        Raises:
            PerchError: It may not, or it cannot be done.
        """
        self.session.receive_command(command)
        match command:
            case Audio(payload):
                self._accept(payload)
            case Start(config):
                self._decoder = StreamDecoder(config.audio)
                self._stream = self._engine.client.stream(config.recognition, stream_id=self.stream_id)
            case Finalize() if self._stream is not None:
                self._stream.finalize()
            case Stop():
                self._stop()
            case _:
                pass
        self._on_events()

    def _accept(self, payload: bytes) -> None:
        assert self._decoder is not None
        assert self._stream is not None
        pcm = self._decoder.decode(payload)
        self._stream.send(pcm)
        self._received += len(payload)
        session = self.session
        session.audio_accepted(bytes_to_samples(len(pcm)), self._stream.lag)
        self._arrivals.append((session.accepted, self.last_heard))
        if self._recognition is None and session.accepted:
            self._recognise()
        if session.accepted - self._counted >= 16_000:
            self._count_audio()

    def _stop(self) -> None:
        assert self._stream is not None
        rest = self._flush()
        if rest:
            self.session.audio_accepted(rest, self._stream.lag)
        self._count_audio()
        self._stream.end()
        self._recognise()

    def _flush(self) -> int:
        """Give the engine what the decoder holds back; return how many samples that was."""
        assert self._decoder is not None
        assert self._stream is not None
        rest = self._decoder.flush()
        self._stream.send(rest)
        return bytes_to_samples(len(rest))

    def _count_audio(self) -> None:
        self._metrics.audio_received(self.session.accepted - self._counted)
        self._counted = self.session.accepted

    # --- engine → client -----------------------------------------------------------------------------

    def _recognise(self) -> None:
        if self._recognition is None:
            self._recognition = asyncio.create_task(self._until_over(), name=f"session {self.stream_id}")

    async def _until_over(self) -> None:
        assert self._stream is not None
        try:
            if self.session.accepted:
                await self._stream.run(self._deliver)
            self.session.receive_engine_end()
        except errors.PerchError as error:
            self.fail(error)
        except Exception:
            log.exception("session_broke", stream_id=self.stream_id)
            self.fail(errors.InternalError(BROKEN))
        self.over.set()
        self._on_events()

    def _deliver(self, heard: Hypothesis | Notice) -> None:
        if isinstance(heard, Notice):
            self.session.receive_notice(heard.code, heard.message)
        else:
            self.session.receive_hypothesis(heard)
        self._on_events()

    def sent(self, event: Event) -> None:
        """``event`` has left for the client."""
        if isinstance(event, Partial | Final):
            kind = "final" if event.is_final else "partial"
            self._metrics.event_sent(kind, self._latency(event.end))

    def _latency(self, position: int) -> float | None:
        """Seconds since the audio at ``position`` arrived, if that is still remembered."""
        for accepted, arrived in self._arrivals:
            if accepted >= position:
                return time.monotonic() - arrived
        return None

    # --- the end -------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Count it as a session: it did not come only to take up another."""
        if self._began is None:
            self._began = time.monotonic()
            self._metrics.session_opened()
            self._log.info("session_started", remote=self._remote)

    def fail(self, error: errors.PerchError) -> None:
        """The session cannot go on."""
        if self.session.state is State.CLOSED:
            return
        if error.fault == "engine":
            self._metrics.engine_failure(error.code)
            self._engine.doubt()
        self.failure = error
        self.session.receive_failure(error)
        self.over.set()
        self._on_events()

    def drop(self) -> None:
        """It never began: another takes its place on the connection."""
        self._closed = True
        self.over.set()
        self.lease.release()

    def replaced_by(self, session: Session, exported: Exported, token: str) -> "LiveSession":
        """``session``, restored from what another process exported, in the place of this one."""
        live = LiveSession(
            session,
            self._engine,
            self._metrics,
            stream_id=exported.stream_id,
            principal=self.principal,
            lease=self.lease.hand_on(),
            token=token,
            remote=self._remote,
        )
        live.begin()
        live.go_on(exported)
        return live

    async def freeze(self) -> Exported:
        """Stop recognising, and return what another process needs to go on."""
        await self._end_recognition()
        session = self.session
        if session.state is State.STREAMING:
            session.accepted += self._flush()
        self._count_audio()
        stream = StreamState(session.accepted, b"")
        if session.state is not State.CLOSED and self._stream is not None:
            stream = self._stream.state()
        return Exported(self.stream_id, self._received, session.snapshot(), stream)

    def go_on(self, exported: Exported) -> None:
        """Take up what ``freeze`` returned in another process; ``session`` was restored from it."""
        self._received = exported.received
        config, state = self.session.config, self.session.state
        if state is State.CLOSED:
            self.over.set()
            return
        self._decoder = StreamDecoder(config.audio)
        self._stream = self._engine.client.stream(
            config.recognition, stream_id=self.stream_id, state=exported.stream
        )
        if state is State.DRAINING:
            self._stream.end()
        if state is State.DRAINING or self.session.accepted:
            self._recognise()

    async def aclose(self, outcome: str) -> None:
        """Free everything; ``outcome`` says how it ended, for the log and the metrics."""
        if not self._closed:
            self._closed = True
            self.detach()
            self.over.set()
            self.lease.release()
            self._report(outcome)
        await self._end_recognition()

    async def _end_recognition(self) -> None:
        if self._recognition is not None:
            self._recognition.cancel()
            await asyncio.wait([self._recognition])

    def _report(self, outcome: str) -> None:
        self.begin()
        assert self._began is not None
        duration, audio_s = time.monotonic() - self._began, samples_to_seconds(self.session.accepted)
        self._metrics.session_closed(outcome, duration, audio_s)
        self._log.info(
            "session_ended",
            outcome=outcome,
            duration_s=round(duration, 3),
            audio_s=round(audio_s, 3),
            bytes=self._received,
            segments=self.session.transcript.segments,
            rtfx=round(audio_s / duration, 3) if duration else 0.0,
        )


def _nothing() -> None:
    """Nobody is attached."""
