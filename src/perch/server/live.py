"""What survives the loss of a socket: a session, its audio decoder and its recognition.

A ``Connection`` attaches to it, hands it the client's commands and sends what its outbox holds. Without one
it is parked: recognition goes on and the events wait.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial

import structlog

from perch import errors
from perch.asr.base import ASRClient, ASRStream, StreamState
from perch.audio.live import Decoder, open_decoder
from perch.core.audio import RATE, AudioFormat, bytes_to_samples, samples_to_seconds
from perch.core.messages import Audio, Command, Event, Final, Finalize, Notice, Partial, Start, Stop
from perch.core.session import Session, SessionSnapshot, State
from perch.core.speech import Hypothesis
from perch.observability.metrics import Metrics
from perch.observability.tracing import StreamSpan
from perch.server.admission import Lease
from perch.server.confirmations import Confirmations
from perch.server.observers import Audience

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
    streams: tuple[StreamState, ...]
    """One for each channel."""


class LiveSession:
    """One client's session, on whatever socket the client has at the moment."""

    def __init__(
        self,
        session: Session,
        engine: Engine,
        metrics: Metrics,
        audience: Audience,
        *,
        stream_id: str,
        principal: str,
        lease: Lease,
        token: str = "",
        remote: str | None = None,
        confirms_finalize: bool = False,
        span: StreamSpan | None = None,
        log_transcripts: bool = False,
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
        self._audience = audience
        self._remote = remote
        self._log = log.bind(stream_id=stream_id, backend=engine.client.backend.kind)
        self._confirmations = Confirmations(self._confirm) if confirms_finalize else None
        self._span = span
        self._context = copy_context()
        self._log_transcripts = log_transcripts
        self._came_from = "here"
        self._partial_sent = False
        self._decoder: Decoder | None = None
        self._by_channel: dict[int, Decoder] = {}
        self._streams: list[ASRStream] = []
        self._positions: list[int] = []
        self._recognitions: dict[int, asyncio.Task[None]] = {}
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
        audio = self.session.config.audio
        self.session.receive_resume(last_seq, self._received // (audio.encoding.width * audio.channels))
        if self.failure is not None:
            self.session.receive_failure(self.failure)
        self.last_heard = time.monotonic()
        self._metrics.resumed(self._came_from)
        self._came_from = "here"
        self._log.info("session_resumed")

    # --- client → engine -----------------------------------------------------------------------------

    def receive(self, command: Command) -> None:
        """Do what the client asks.

        Raises:
            PerchError: It may not, or it cannot be done.
        """
        was_stopped = self.session.state is State.DRAINING
        self.session.receive_command(command)
        match command:
            case Audio(payload, channel):
                self._accept(payload, channel)
            case Start(config):
                self._decoder = open_decoder(config.audio)
                self._open_streams([None] * config.audio.streams)
            case Finalize():
                self._finalize()
            case Stop() if not was_stopped:
                self._stop()
            case _:
                pass
        self._on_events()

    def _open_streams(self, states: Sequence[StreamState | None]) -> None:
        """A recognition for each channel; it connects when there is audio for it."""
        client, recognition = self._engine.client, self.session.config.recognition
        self._streams = [
            client.stream(recognition, stream_id=self.stream_id, state=state) for state in states
        ]
        self._positions = [self.session.accepted] * len(states)

    def _accept(self, payload: bytes, channel: int | None) -> None:
        assert self._decoder is not None
        if channel is None:
            for index, pcm in enumerate(self._decoder.decode(payload)):
                self._send(index, pcm)
        else:
            [pcm] = self._decoder_of(channel).decode(payload)
            self._send(channel, pcm)
        self._received += len(payload)
        self._advance()
        self._arrivals.append((self.session.accepted, self.last_heard))

    def _decoder_of(self, channel: int) -> Decoder:
        """For a dialect that sends each channel by itself."""
        if channel not in self._by_channel:
            audio = self.session.config.audio
            self._by_channel[channel] = open_decoder(AudioFormat(audio.encoding, audio.sample_rate))
        return self._by_channel[channel]

    def _send(self, channel: int, pcm: bytes) -> None:
        if pcm:
            self._streams[channel].send(pcm)
            self._positions[channel] += bytes_to_samples(len(pcm))
            if channel not in self._recognitions:
                self._recognise(channel)

    def _advance(self) -> None:
        """Count the audio that has come: the channels have one clock, and the furthest of them tells it."""
        session = self.session
        gained = max(self._positions) - session.accepted
        if gained > 0:
            session.audio_accepted(gained, max(stream.lag for stream in self._streams))
            if session.accepted - self._counted >= RATE:
                self._count_audio()
                self._metrics.stage("ws_in", time.monotonic() - self.last_heard)

    def _finalize(self) -> None:
        for stream in self._streams:
            stream.finalize()
        if self._confirmations is not None:
            session = self.session
            self._confirmations.expect(session.accepted, self._streams, session.transcripts)

    def _confirm(self, mark: int) -> None:
        if self.session.state is not State.CLOSED:
            self.session.receive_finalized(mark)
            self._on_events()

    def _stop(self) -> None:
        self._flush()
        self._advance()
        self._count_audio()
        for stream in self._streams:
            stream.end()
        self._end_if_all_said()

    def _flush(self) -> None:
        """Give the engine what the decoders hold back."""
        for channel, pcm in self._held_back():
            self._send(channel, pcm)

    def _held_back(self) -> Iterator[tuple[int, bytes]]:
        assert self._decoder is not None
        yield from enumerate(self._decoder.flush())
        for channel, decoder in self._by_channel.items():
            [pcm] = decoder.flush()
            yield channel, pcm

    def _count_audio(self) -> None:
        fresh = self.session.accepted - self._counted
        self._counted = self.session.accepted
        self._metrics.audio_received(fresh)
        self.lease.spend(samples_to_seconds(fresh * len(self._streams)))

    # --- engine → client -----------------------------------------------------------------------------

    def _recognise(self, channel: int) -> None:
        # Audio may come in the transport's context: the log's and the trace's names are those of the session.
        task = asyncio.create_task(
            self._until_said(channel), name=f"session {self.stream_id}", context=self._context.copy()
        )
        self._recognitions[channel] = task

    async def _until_said(self, channel: int) -> None:
        try:
            await self._streams[channel].run(partial(self._deliver, channel))
        except errors.PerchError as error:
            self.fail(error)
        except Exception:
            log.exception("session_broke", stream_id=self.stream_id)
            self.fail(errors.InternalError(BROKEN))
        else:
            del self._recognitions[channel]
            self._end_if_all_said()

    def _end_if_all_said(self) -> None:
        if self._recognitions or self.session.state is not State.DRAINING:
            return
        try:
            if self._confirmations is not None:
                self._confirmations.all()
            self.session.receive_engine_end()
        except errors.PerchError as error:
            self.fail(error)
        self.over.set()
        self._on_events()

    def _deliver(self, channel: int, heard: Hypothesis | Notice) -> None:
        if isinstance(heard, Notice):
            self.session.receive_notice(heard.code, heard.message)
            self._on_events()
            return
        self.session.receive_hypothesis(heard, channel)
        if self._confirmations is not None:
            self._confirmations.heard(heard.end)
        if heard.is_final:
            self._send_timed(self._streams[channel].answered_at)
        else:
            self._on_events()

    def _send_timed(self, read_at: float) -> None:
        """Finals are rare enough to be timed, and take the same road as partials."""
        queued = time.monotonic()
        self._on_events()
        self._metrics.stage("ws_out", time.monotonic() - queued)
        if read_at:
            self._metrics.stage("engine_read", queued - read_at)

    def sent(self, seq: int, event: Event) -> None:
        """``event`` has left for the client."""
        self._audience.publish(seq, event)
        if isinstance(event, Partial):
            latency = self._latency(event.end)
            self._metrics.event_sent("partial", latency)
            if not self._partial_sent and latency is not None:
                self._partial_sent = True
                self._metrics.first_partial(latency)
        elif isinstance(event, Final):
            self._final_sent(event)

    def _final_sent(self, final: Final) -> None:
        self._metrics.event_sent("final", self._latency(final.heard or final.end))
        since_speech = self._latency(final.end)
        if since_speech is not None and final.words:
            self._metrics.speech_end(since_speech)
        if self._span is not None:
            self._span.utterance(
                samples_to_seconds(final.end - final.start) + (since_speech or 0.0),
                {"perch.segment": final.segment, "perch.words": len(final.words)},
            )
        if self._log_transcripts:
            self._log.info(
                "transcript",
                segment=final.segment,
                start_s=round(samples_to_seconds(final.start), 3),
                end_s=round(samples_to_seconds(final.end), 3),
                text=final.text,
            )

    def _latency(self, position: int) -> float | None:
        """Seconds since the audio at ``position`` arrived, if that is still remembered."""
        arrivals, found = self._arrivals, None
        for accepted, arrived in reversed(arrivals):
            if accepted < position:
                break
            found = arrived
        else:
            if len(arrivals) == arrivals.maxlen:
                return None  # it came before the first that is remembered
        return None if found is None else time.monotonic() - found

    # --- the end -------------------------------------------------------------------------------------

    @property
    def is_awaited(self) -> bool:
        """Whether its client may be silent because it waits for what the engine makes of its audio."""
        is_confirming = self._confirmations is not None and self._confirmations.is_expected
        return (
            self.session.state is State.DRAINING
            or is_confirming
            or any(stream.lag for stream in self._streams)
        )

    @property
    def lag_s(self) -> float:
        """Seconds of audio that no engine has taken."""
        return samples_to_seconds(max((stream.lag for stream in self._streams), default=0))

    @property
    def has_begun(self) -> bool:
        return self._began is not None

    def begin(self) -> None:
        """Count it as a session: it did not come only to take up another."""
        if self._began is None:
            self._began = time.monotonic()
            self._metrics.session_opened()
            self._audience.open()
            self._log.info("session_started", remote=self._remote)

    def fail(self, error: errors.PerchError) -> None:
        """The session cannot go on."""
        if self.session.state is State.CLOSED:
            return
        if error.fault == "engine":
            self._metrics.engine_failure(error.code)
            self._engine.doubt()
        if isinstance(error, errors.ResumeUnknown):
            self._metrics.resumed("unknown")
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
            self._audience.renamed(exported.stream_id),
            stream_id=exported.stream_id,
            principal=self.principal,
            lease=self.lease.hand_on(),
            token=token,
            remote=self._remote,
            span=self._span,
            log_transcripts=self._log_transcripts,
        )
        live._came_from = "elsewhere"
        live.begin()
        live.go_on(exported)
        return live

    async def freeze(self) -> Exported:
        """Stop recognising, and return what another process needs to go on."""
        await self._end_recognition()
        session = self.session
        if session.state is State.STREAMING:
            for channel, pcm in self._held_back():
                self._streams[channel].send(pcm)
                self._positions[channel] += bytes_to_samples(len(pcm))
            session.accepted = max(self._positions)
        self._count_audio()
        if session.state is State.CLOSED:
            return Exported(self.stream_id, self._received, session.snapshot(), ())
        streams = tuple(stream.state() for stream in self._streams)
        return Exported(self.stream_id, self._received, session.snapshot(), streams)

    def go_on(self, exported: Exported) -> None:
        """Take up what ``freeze`` returned in another process; ``session`` was restored from it."""
        self._received = exported.received
        config, state = self.session.config, self.session.state
        if state is State.CLOSED:
            self.over.set()
            return
        self._decoder = open_decoder(config.audio)
        self._open_streams(exported.streams)
        for channel, stream in enumerate(self._streams):
            if state is State.DRAINING:
                stream.end()
            if self.session.accepted:
                self._recognise(channel)
        self._end_if_all_said()

    async def aclose(self, outcome: str) -> None:
        """Free everything; ``outcome`` says how it ended, for the log and the metrics."""
        if not self._closed:
            self._closed = True
            self.detach()
            self.over.set()
            self.lease.release()
            self._report(outcome)
            self._audience.close()
        await self._end_recognition()

    async def _end_recognition(self) -> None:
        if self._confirmations is not None:
            self._confirmations.cancel()
        tasks = tuple(self._recognitions.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

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
            segments=self.session.segments,
            rtfx=round(audio_s / duration, 3) if duration else 0.0,
        )


def _nothing() -> None:
    """Nobody is attached."""
