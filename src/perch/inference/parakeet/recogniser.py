"""Parakeet and its like as a ``Recogniser``: voices here, the model in a process of its own."""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import replace
from itertools import chain, repeat
from types import MappingProxyType

from perch.core.audio import bytes_to_samples, samples_to_ms, samples_to_seconds
from perch.core.speech import RecognitionConfig
from perch.errors import EngineFailed, EngineFull, PerchError
from perch.inference.health import Health
from perch.inference.parakeet import wire
from perch.inference.parakeet.model import Facts, LoadOptions
from perch.inference.parakeet.process import ModelProcess
from perch.inference.recogniser import Capabilities, Recognition
from perch.inference.vad import SileroDetector, SileroVad

UNHEALTHY_AT_LEAST = 1.0
"""Seconds until a lost model is back at the soonest, so that whoever watches health sees it lost."""

BACKOFF = (1.0, 2.0, 5.0, 10.0, 30.0)

ANSWER_DEADLINE = 20.0
"""Seconds for an answer, and one more for each second of audio it is about."""

RECORDING_DEADLINE = 300.0
"""Seconds for an utterance of a recording, which lets the streams go first."""

log = logging.getLogger(__name__)


class ModelVoice:
    """Implements ``Voice``: an utterance at a time, numbered in the model's process.

    Audio is held here until a piece of it is whole. The process is then woken once for each piece, and not
    by every message of every stream while it computes.
    """

    def __init__(self, recogniser: "ModelRecogniser", process: ModelProcess) -> None:
        self._recogniser = recogniser
        self._process = process
        self._chunk = process.facts.chunk
        self._key: int | None = None
        self._held: list[bytes] = []
        self._samples = 0
        self._text = ""
        self._closed = False

    async def feed(self, pcm: bytes) -> str | None:
        before = self._samples
        self._held.append(pcm)
        self._samples += bytes_to_samples(len(pcm))
        if not self._chunk or self._samples // self._chunk == before // self._chunk:
            return None
        text = (await self._ask(wire.AUDIO)).decode()
        is_new, self._text = text != self._text, text
        return text if is_new else None

    async def finish(self) -> Recognition:
        if not self._samples:
            return Recognition("")
        body = await self._ask(wire.LAST)
        self._key, self._samples, self._text = None, 0, ""
        return wire.unpack(body)

    async def aclose(self) -> None:
        if not self._closed:
            self._closed = True
            if self._key is not None:
                self._process.drop(self._key)
            self._recogniser.release()

    async def _ask(self, kind: bytes) -> bytes:
        """Send what is held, and return the answer to it."""
        if self._key is None:
            self._key = self._process.utterance()
        pcm = b"".join(self._held)
        self._held.clear()
        try:
            return await self._process.ask(
                kind, self._key, pcm, ANSWER_DEADLINE + samples_to_seconds(self._samples)
            )
        except BaseException:
            self._process.drop(self._key)  # cancelled or failed: its place is free at once
            raise


class ModelRecogniser:
    """A ``Recogniser``. Make it with ``start``; it repairs itself until ``aclose``."""

    def __init__(
        self,
        vad: SileroVad,
        process: ModelProcess,
        order: tuple[str, LoadOptions, int | None],
        published: Capabilities,
    ) -> None:
        self._vad = vad
        self._process = process
        backend, options, slots = order
        self._order = (backend, options, slots or process.slots)  # measured once, not at every restart
        self._capabilities = published
        self._health = Health()
        self._taken = 0
        self._recordings = asyncio.Semaphore(process.recordings)
        self._closed = False
        self._repair = asyncio.create_task(self._keep_in_repair(), name="model-repair")

    @classmethod
    async def start(
        cls,
        backend: str,
        options: LoadOptions,
        *,
        slots: int | None = None,
        aliases: tuple[str, ...] = (),
        about: Mapping[str, str] = MappingProxyType({}),
    ) -> "ModelRecogniser":
        """Load the model and return once it recognises.

        Args:
            backend: One of ``backends.BACKENDS``.
            options: What to load, and how.
            slots: Streams at the same time; None finds out how many this machine carries.
            aliases: Other names the model is asked for by.
            about: What else is to be published of it.

        Raises:
            BadConfig: What was asked for cannot be.
            EngineFailed: The model or its process could not be started.
        """
        vad = await asyncio.to_thread(SileroVad.load)
        try:
            process = await ModelProcess.start(backend, options, slots)
        except BaseException:
            await vad.aclose()
            raise
        told = capabilities_of(process.facts, process.slots, aliases)
        published = replace(told, recordings=process.recordings, parameters={**told.parameters, **about})
        return cls(vad, process, (backend, options, slots), published)

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    @property
    def healthy(self) -> bool:
        return self._health.problem is None

    @property
    def pid(self) -> int:
        """The process id of the model's process."""
        return self._process.pid

    async def open(self, config: RecognitionConfig) -> ModelVoice:
        """A voice for one caller; every caller is recognised alike.

        Raises:
            EngineFull: Every slot is taken.
            EngineFailed: The recogniser is closed or being restarted.
        """
        del config
        self._check_running()
        if self._taken >= self._capabilities.slots:
            raise EngineFull(
                f"All {self._capabilities.slots} streams of the model are taken.", retry_after=1.0
            )
        self._taken += 1
        return ModelVoice(self, self._process)

    async def recognise(self, pcm: bytes) -> Recognition:
        """The text of a whole utterance of a recording: beside the streams, in a batch with its like.

        Raises:
            EngineFailed: The recogniser is closed, being restarted, or failed on it.
        """
        async with self._recordings:
            self._check_running()
            process = self._process
            key = process.utterance()
            try:
                return wire.unpack(await process.ask(wire.WHOLE, key, pcm, RECORDING_DEADLINE))
            except BaseException:
                process.drop(key)  # cancelled or failed: its place is free at once
                raise

    def _check_running(self) -> None:
        if self._closed:
            raise EngineFailed("The recogniser is closed.")
        if self._health.problem is not None:
            raise EngineFailed("The model is being restarted.", retry_after=UNHEALTHY_AT_LEAST)

    def release(self) -> None:
        """A voice is closed."""
        self._taken -= 1

    def detector(self) -> SileroDetector:
        """A fresh speech detector for one stream."""
        return self._vad.detector()

    async def wait_unhealthy(self) -> str:
        """Return, with the reason, as soon as the recogniser stops being healthy."""
        return await self._health.lost()

    async def wait_healthy(self) -> None:
        """Return as soon as the model is there; at once if it is."""
        await self._health.regained()

    async def aclose(self) -> None:
        """Stop the process. Open voices fail. Safe to call twice."""
        if self._closed:
            return
        self._closed = True
        self._health.lose("The recogniser is closed.")
        self._repair.cancel()
        await asyncio.wait([self._repair])
        await self._process.aclose()
        await self._vad.aclose()

    async def _keep_in_repair(self) -> None:
        while True:
            reason = await self._process.ended()
            log.error("recogniser unhealthy: %s", reason)
            self._health.lose(reason)
            await self._process.aclose()
            await asyncio.sleep(UNHEALTHY_AT_LEAST)
            self._process = await self._revived()
            # Where memory has become short, there are fewer; the next restart asks for all of them again.
            slots, recordings = self._process.slots, self._process.recordings
            self._capabilities = replace(self._capabilities, slots=slots, recordings=recordings)
            self._recordings = asyncio.Semaphore(recordings)
            self._health.regain()
            log.info("recogniser healthy again")

    async def _revived(self) -> ModelProcess:
        for pause in chain(BACKOFF, repeat(BACKOFF[-1])):
            try:
                return await ModelProcess.start(*self._order)
            except PerchError as problem:
                log.warning("model not restarted, next try in %s s: %s", pause, problem.message)
                await asyncio.sleep(pause)
        raise AssertionError("unreachable: the pauses never end")


def capabilities_of(facts: Facts, slots: int, aliases: tuple[str, ...] = ()) -> Capabilities:
    """What the engine publishes of a loaded model."""
    parameters = {
        "backend": facts.backend,
        "device": facts.device,
        "decoder": facts.decoder,
        "confidence": "token probability" if facts.confidence else "none",
        **facts.parameters,
    }
    if facts.chunk:
        parameters["chunk_ms"] = str(samples_to_ms(facts.chunk))
    if facts.lookahead:
        parameters["lookahead_ms"] = str(samples_to_ms(facts.lookahead))
    return replace(
        Capabilities(model=facts.model, languages=facts.languages),
        aliases=aliases,
        streaming_mode=facts.mode,
        partials=facts.mode != "vad-segmented",
        word_times=facts.word_times,
        punctuation=facts.punctuation,
        slots=slots,
        max_utterance=facts.longest,
        parameters=parameters,
    )
