"""Riva's speech recognition service: requests in, one response per audio message out.

Where Riva and its open-source sibling NeMo-Speech.cpp answer in a certain way, this answers in the same
way; the one intended difference is that a full engine refuses with RESOURCE_EXHAUSTED instead of
slowing everybody down.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import grpc

from perch.core.speech import Hypothesis, RecognitionConfig
from perch.engine.audio import RivaDecoder
from perch.engine.auth import check_key
from perch.engine.catalogue import Catalogue
from perch.engine.config import EngineConfig
from perch.engine.hearing import Hearing
from perch.engine.idle import IdleSequence
from perch.engine.recording import RecordingStream
from perch.engine.scheduler import Room, Scheduler
from perch.engine.stream import RecognitionStream
from perch.engine.voice import TimedDetector, TimedVoice
from perch.errors import BadMessage, InternalError, PerchError
from perch.inference.endpointer import Defaults, Endpointer
from perch.inference.recogniser import Recogniser, RecordingRecogniser
from perch.riva import convert
from perch.riva.proto import asr_grpc
from perch.riva.status import status_from_error

log = logging.getLogger(__name__)


class RecognitionService(asr_grpc.RivaSpeechRecognitionServicer):  # type: ignore[misc] # untyped stubs
    """``RivaSpeechRecognition`` over one recogniser."""

    def __init__(
        self, recogniser: Recogniser, scheduler: Scheduler, recordings: Room, config: EngineConfig
    ) -> None:
        self._recogniser = recogniser
        self._scheduler = scheduler
        self._config = config
        self._recordings = recordings
        self._catalogue = Catalogue(recogniser, accept_any_model=config.accept_any_model)

    async def StreamingRecognize(self, requests: AsyncIterator[Any], context: Any) -> None:  # noqa: N802 the name of the RPC
        # A coroutine that writes, not a generator that yields: gRPC leaves the generator of a cancelled
        # call suspended at its yield until it is collected, and its slot with it.
        async with self._call(context):
            messages = aiter(requests)
            first = await _first(messages)
            asked = first.streaming_config
            config = self._resolve(asked.config, "online", interim_results=asked.interim_results)
            is_recording = config.custom.get(convert.RECORDING) == "true"
            async with self._open(asked.config, config, is_recording=is_recording) as stream:
                await self._converse(stream, messages, context, first.id.value)

    async def Recognize(self, request: Any, context: Any) -> Any:  # noqa: N802
        async with self._call(context):
            config = self._resolve(request.config, "offline", interim_results=False)
            async with self._open(request.config, config, is_recording=True) as stream:
                finals = [*await stream.feed(request.audio), *await stream.finish()]
            return convert.offline_to_proto(finals, request_id=request.id.value)

    async def GetRivaSpeechRecognitionConfig(self, request: Any, context: Any) -> Any:  # noqa: N802
        async with self._call(context):
            return convert.models_to_proto(self._catalogue.models(request.model_name))

    async def _converse(
        self, stream: Hearing, messages: AsyncIterator[Any], context: Any, request_id: str
    ) -> None:
        now = asyncio.get_running_loop().time
        idle = IdleSequence(self._config.idle_sequence_s, since=now())
        responses = _Responses(request_id)
        async for message in messages:
            if message.HasField("streaming_config"):
                raise BadMessage("only the first message may contain streaming_config")
            idle.message(now(), has_audio=bool(message.audio_content))
            hypotheses = await stream.feed(message.audio_content, force_eou=_forces_eou(message))
            await context.write(responses.of(hypotheses))
        if last := await stream.finish():
            await context.write(responses.of(last))

    def _resolve(self, message: Any, kind: str, *, interim_results: bool) -> RecognitionConfig:
        asked = convert.config_from_proto(message, interim_results=interim_results)
        return self._catalogue.resolve(asked, sample_rate=message.sample_rate_hertz, kind=kind)

    @asynccontextmanager
    async def _open(
        self, message: Any, config: RecognitionConfig, *, is_recording: bool
    ) -> AsyncIterator[Hearing]:
        decoder = RivaDecoder(convert.audio_from_proto(message))  # refused before a slot is taken
        recogniser = self._recogniser
        if is_recording and isinstance(recogniser, RecordingRecogniser):
            with self._recordings.one():
                async with aclosing(self._recording(recogniser, decoder, config)) as recording:
                    yield recording
            _report(recording)
            return
        async with self._scheduler.lease(config) as voice:
            stream = self._stream(voice, decoder, config)
            try:
                yield stream
            finally:
                _report(stream)

    def _recording(
        self, recogniser: RecordingRecogniser, decoder: RivaDecoder, config: RecognitionConfig
    ) -> RecordingStream:
        detector, endpointer = self._ears(config)
        return RecordingStream(
            recogniser=recogniser,
            detector=detector,
            endpointer=endpointer,
            decoder=decoder,
            config=config,
        )

    def _stream(
        self, voice: TimedVoice, decoder: RivaDecoder, config: RecognitionConfig
    ) -> RecognitionStream:
        detector, endpointer = self._ears(config)
        return RecognitionStream(
            voice=voice, detector=detector, endpointer=endpointer, decoder=decoder, config=config
        )

    def _ears(self, config: RecognitionConfig) -> tuple[TimedDetector, Endpointer]:
        """What finds the utterances of one stream."""
        detector = self._recogniser.detector()
        longest = Defaults(max_utterance=self._recogniser.capabilities.max_utterance)
        return (
            TimedDetector(detector, timeout_s=self._config.voice_timeout_s),
            Endpointer(config.endpointing, detector.frame, longest),
        )

    @asynccontextmanager
    async def _call(self, context: Any) -> AsyncIterator[None]:
        """A call that ends with a status a Riva client understands, whatever happens inside."""
        try:
            check_key(context.invocation_metadata() or (), self._config.api_key)
            yield
        except PerchError as error:
            await _abort(context, error)
        except grpc.aio.BaseError:
            raise
        except Exception:
            log.exception("a call failed for a reason of our own")
            await _abort(context, InternalError("The engine met an error of its own; its log says which."))


class _Responses:
    """The responses of one stream: each with its id, later utterances with a space in front."""

    def __init__(self, request_id: str) -> None:
        self._id = request_id
        self._continued = False

    def of(self, hypotheses: list[Hypothesis]) -> Any:
        response = convert.response_to_proto(
            hypotheses, request_id=self._id, prefix=" " if self._continued else ""
        )
        self._continued = self._continued or any(h.is_final and h.text for h in hypotheses)
        return response


def _report(stream: Hearing) -> None:
    log.info("recognised %.2f s of audio, %d finals", stream.seconds, stream.finals)


async def _first(messages: AsyncIterator[Any]) -> Any:
    first = await anext(messages, None)
    if first is None:
        raise BadMessage("no messages received")
    if not first.HasField("streaming_config"):
        raise BadMessage("first message must contain streaming_config")
    return first


def _forces_eou(message: Any) -> bool:
    return str(message.runtime_config.get("force_eou", "")).lower() == "true"


async def _abort(context: Any, error: PerchError) -> None:
    status = status_from_error(error)
    await context.abort(status.code, status.details, _trailers(error))


def _trailers(error: PerchError) -> tuple[tuple[str, str], ...]:
    if error.retry_after is None:
        return ()
    return (("retry-after-ms", str(round(error.retry_after * 1000))),)
