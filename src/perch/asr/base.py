"""The one boundary between the gateway and whatever recognises speech.

``RivaASRClient`` speaks gRPC to Riva, NIM or ``perch engine``; ``MockASRClient`` pretends, and says so. Both
are an ``ASRClient``; nothing above this package knows which one it holds.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterable, AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from perch.audio.decode import StreamDecoder
from perch.audio.files import decode_file
from perch.core.audio import RATE, AudioFormat
from perch.core.messages import Backend, Final, Notice, Partial
from perch.core.outbox import Outbox
from perch.core.speech import HotWords, Hypothesis, ModelInfo, RecognitionConfig
from perch.core.transcript import Transcript

Deliver = Callable[[Hypothesis | Notice], None]
"""Takes each hypothesis, and each notice that the client of the session should hear of."""
_AHEAD = 30 * RATE


@dataclass(frozen=True, slots=True)
class StreamState:
    """What another stream needs to take up this one's work: the audio no final covers, and where it begins.

    ``start`` is a position on the session's clock; ``audio`` is 16 kHz mono PCM16 from there to the end of
    what was accepted.
    """

    start: int
    audio: bytes


@dataclass(frozen=True, slots=True)
class EndpointLoad:
    """One engine: the streams open on it, and its circuit breaker (closed, half_open or open)."""

    address: str
    streams: int
    breaker: str


@dataclass(frozen=True, slots=True)
class ClientLoad:
    """What a client has on its hands: samples the furthest stream is behind, bytes of audio held."""

    lag: int = 0
    spool_bytes: int = 0
    endpoints: tuple[EndpointLoad, ...] = ()


class ASRStream(Protocol):
    """One recognition. ``send``, ``finalize`` and ``end`` never wait; ``run`` does the work."""

    def send(self, pcm: bytes) -> None:
        """Accept 16 kHz mono PCM16.

        Raises:
            LagExceeded: The engine has not taken what was sent before; nothing was accepted.
        """
        ...

    def finalize(self) -> None:
        """End the current utterance after the audio sent so far."""
        ...

    def end(self) -> None:
        """No more audio will be sent: recognise the rest, then let ``run`` return."""
        ...

    @property
    def lag(self) -> int:
        """Samples accepted that no engine has taken yet."""
        ...

    @property
    def answered_at(self) -> float:
        """When the engine last answered anything, by ``time.monotonic()``; 0 before its first answer."""
        ...

    @property
    def answers(self) -> int:
        """How often an engine has answered, whatever it said."""
        ...

    @property
    def unanswered(self) -> int:
        """Requests that the engine has and has not answered. Riva answers each one, often with nothing."""
        ...

    async def room(self, samples: int) -> None:
        """Wait until the engine is less than ``samples`` behind."""
        ...

    def state(self) -> StreamState:
        """What a successor needs. Ask once ``run`` has ended or been cancelled."""
        ...

    async def run(self, deliver: Deliver) -> None:
        """Recognise until everything sent before ``end`` has been answered.

        ``deliver`` is called with each hypothesis, in order, on the event loop. Cancelling is safe at any
        time and frees what the stream holds.

        Raises:
            PerchError: The recognition cannot go on.
        """
        ...


class ASRClient(ABC):
    """Opens streams on an engine. Safe to use from many tasks of one event loop."""

    @property
    @abstractmethod
    def backend(self) -> Backend:
        """What recognises, to be told to clients."""

    @abstractmethod
    def stream(
        self,
        config: RecognitionConfig,
        *,
        stream_id: str = "",
        state: StreamState | None = None,
        recording: bool = False,
    ) -> ASRStream:
        """A stream that connects when its ``run`` is awaited; with ``state`` it goes on where another ended.

        With ``recording`` nobody waits for each word: an engine that can recognises utterances side by side.
        """

    @abstractmethod
    async def recognize(self, pcm: bytes, config: RecognitionConfig) -> list[Hypothesis]:
        """Recognise a whole recording of 16 kHz mono PCM16 at once: finals only."""

    @abstractmethod
    async def models(self) -> list[ModelInfo]:
        """The models the engine serves.

        Raises:
            EngineFault: It does not answer.
        """

    def load(self) -> ClientLoad:
        """What is going on now; of an engine that is in this process, nothing."""
        return ClientLoad()

    def room(self) -> int | None:
        """Live streams that the engines have room for, as they published it; None if that is not known."""
        return None

    @abstractmethod
    async def aclose(self) -> None:
        """Close every connection. Streams still running fail."""

    async def stream_transcribe(
        self,
        audio_iter: AsyncIterable[bytes],
        sample_rate: int,
        enable_partials: bool = True,  # noqa: FBT001, FBT002 - as the interface is known
        *,
        hotwords: Sequence[str | HotWords] = (),
        config: RecognitionConfig | None = None,
    ) -> AsyncIterator[Partial | Final]:
        """Transcribe mono PCM16 at ``sample_rate`` as it comes, yielding partials and finals.

        Raises:
            PerchError: The recognition cannot go on.
        """
        wanted = _with(config or RecognitionConfig(), enable_partials, hotwords)
        stream, transcript, outbox = self.stream(wanted), Transcript(), Outbox()
        changed = asyncio.Event()

        def deliver(heard: Hypothesis | Notice) -> None:
            if isinstance(heard, Hypothesis):
                for event in transcript.receive(heard):
                    outbox.push(event)
            changed.set()

        # A task of its own, not a TaskGroup around the yield: a failure must reach the consumer when it
        # asks for the next event, not cancel whatever the consumer is doing.
        work = asyncio.create_task(feed_and_run(stream, audio_iter, sample_rate, deliver))
        work.add_done_callback(lambda _: changed.set())
        try:
            while not work.done() or outbox:
                await changed.wait()
                changed.clear()
                while (item := outbox.pop()) is not None:
                    if isinstance(item[1], Partial | Final):
                        yield item[1]
            await work
        finally:
            work.cancel()
            await asyncio.wait([work])

    async def transcribe_file(
        self,
        path: Path,
        *,
        hotwords: Sequence[str | HotWords] = (),
        config: RecognitionConfig | None = None,
    ) -> list[Final]:
        """Transcribe a recording in any container, whole.

        Raises:
            BadAudio: The file cannot be decoded.
            PerchError: The recognition cannot go on.
        """
        pcm = await asyncio.to_thread(lambda: b"".join(decode_file(path)))
        wanted = _with(config or RecognitionConfig(), False, hotwords)  # noqa: FBT003
        transcript = Transcript()
        return [
            event
            for hypothesis in await self.recognize(pcm, wanted)
            for event in transcript.receive(hypothesis)
            if isinstance(event, Final)
        ]


def _with(config: RecognitionConfig, partials: bool, hotwords: Sequence[str | HotWords]) -> RecognitionConfig:  # noqa: FBT001
    extra = tuple(hot if isinstance(hot, HotWords) else HotWords((hot,)) for hot in hotwords)
    return replace(config, interim_results=partials, hotwords=config.hotwords + extra)


async def feed_and_run(
    stream: ASRStream, audio_iter: AsyncIterable[bytes], sample_rate: int, deliver: Deliver
) -> None:
    """Give ``stream`` the audio as the engine takes it, and run it; the first failure of either is raised."""
    feeding = asyncio.create_task(_feed(stream, audio_iter, sample_rate))
    running = asyncio.create_task(stream.run(deliver))
    try:
        await asyncio.wait([feeding, running], return_when=asyncio.FIRST_EXCEPTION)
        if not running.done() or running.exception() is None:
            await feeding
        await running
    finally:
        feeding.cancel()
        running.cancel()
        await asyncio.wait([feeding, running])


async def _feed(stream: ASRStream, audio_iter: AsyncIterable[bytes], sample_rate: int) -> None:
    decoder = StreamDecoder(AudioFormat(sample_rate=sample_rate))
    async for chunk in audio_iter:
        stream.send(decoder.decode(chunk))
        await stream.room(_AHEAD)
    stream.send(decoder.flush())
    stream.end()
