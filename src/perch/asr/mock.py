"""``MockASRClient``: the interface of an engine without an engine, for trying out clients and operations.

Its words are made up, but when they come is driven by the audio: one word for each 300 ms of sound, a final
after 800 ms of quiet, nothing at all for silence. The same audio gives the same events, however it is cut.
"""

import asyncio
from collections.abc import Iterator

import numpy as np

from perch.asr.base import ASRClient, ASRStream, Deliver, StreamState
from perch.core.audio import RATE, bytes_to_samples
from perch.core.messages import Backend
from perch.core.speech import Hypothesis, ModelInfo, RecognitionConfig, Word

MODEL = "mock"
WORDS = ("mock", "mode", "nothing", "is", "recognised", "these", "words", "are", "made", "up")
_BLOCK = RATE // 10
_BLOCKS_PER_WORD = 3
_BLOCKS_TO_END = 8
_LOUD = 330.0
"""Root mean square (about -40 dB full scale) above which a block counts as sound."""


class MockTranscriber:
    """Audio in, hypotheses out, no I/O: the whole behaviour of the mock."""

    def __init__(self, position: int = 0) -> None:
        self._rest = b""
        self._position = position
        self._spoken = 0
        self._starts: list[int] = []
        self._quiet = 0
        self._loud = 0

    def feed(self, pcm: bytes) -> Iterator[Hypothesis]:
        data = self._rest + pcm
        whole = len(data) - len(data) % (_BLOCK * 2)
        self._rest = data[whole:]
        samples = np.frombuffer(data[:whole], dtype="<i2").reshape(-1, _BLOCK).astype(np.float32)
        for loudness in np.sqrt(np.mean(samples**2, axis=1)):
            yield from self._block(loud=bool(loudness > _LOUD))

    def finish(self) -> Iterator[Hypothesis]:
        """End the utterance, if one is going on."""
        if self._starts:
            yield self._final()
        self._loud = self._quiet = 0

    def _block(self, *, loud: bool) -> Iterator[Hypothesis]:
        start = self._position
        self._position += _BLOCK
        if not loud:
            self._quiet += 1
            if self._quiet == _BLOCKS_TO_END:
                yield from self.finish()
            return
        self._quiet = 0
        self._loud += 1
        if self._loud % _BLOCKS_PER_WORD == 1:
            self._starts.append(start)
            yield Hypothesis(self._text(), is_final=False, end=self._position)

    def _final(self) -> Hypothesis:
        length = _BLOCKS_PER_WORD * _BLOCK
        words = tuple(
            Word(text, start, min(start + length, self._position))
            for text, start in zip(self._words(), self._starts, strict=True)
        )
        final = Hypothesis(self._text(), is_final=True, words=words, end=self._position)
        self._spoken += len(self._starts)
        self._starts = []
        return final

    def _words(self) -> list[str]:
        return [WORDS[(self._spoken + index) % len(WORDS)] for index in range(len(self._starts))]

    def _text(self) -> str:
        return " ".join(self._words())


class MockStream:
    """An ``ASRStream`` over ``MockTranscriber``."""

    lag = 0
    answered_at = 0.0
    answers = 0
    unanswered = 0

    def __init__(self, state: StreamState | None = None) -> None:
        self._transcriber = MockTranscriber(0 if state is None else state.start)
        self._end = 0 if state is None else state.start
        self._said: list[Hypothesis] = []
        self._more = asyncio.Event()
        self._ended = False
        if state is not None:
            self.send(state.audio)

    def send(self, pcm: bytes) -> None:
        self._end += bytes_to_samples(len(pcm))
        self._said.extend(self._transcriber.feed(pcm))
        self._more.set()

    def finalize(self) -> None:
        self._said.extend(self._transcriber.finish())
        self._more.set()

    def end(self) -> None:
        self._said.extend(self._transcriber.finish())
        self._ended = True
        self._more.set()

    def state(self) -> StreamState:
        return StreamState(self._end, b"")

    async def room(self, samples: int) -> None:  # noqa: ARG002 - the mock is never behind
        return

    async def run(self, deliver: Deliver) -> None:
        while True:
            said, self._said = self._said, []
            for hypothesis in said:
                deliver(hypothesis)
            if self._ended and not self._said:
                return
            self._more.clear()
            await self._more.wait()


class MockASRClient(ASRClient):
    """An ``ASRClient`` that recognises nothing and says so in every reply."""

    @property
    def backend(self) -> Backend:
        return Backend("mock", MODEL, "Mock mode: the words are made up; no speech is recognised.")

    def stream(
        self,
        config: RecognitionConfig,  # noqa: ARG002
        *,
        stream_id: str = "",  # noqa: ARG002
        state: StreamState | None = None,
        recording: bool = False,  # noqa: ARG002
    ) -> ASRStream:
        return MockStream(state)

    async def recognize(self, pcm: bytes, config: RecognitionConfig) -> list[Hypothesis]:  # noqa: ARG002
        transcriber = MockTranscriber()
        return [h for h in (*transcriber.feed(pcm), *transcriber.finish()) if h.is_final]

    async def models(self) -> list[ModelInfo]:
        return [ModelInfo(MODEL, ("en-US",), streaming=True, offline=True, sample_rate=RATE)]

    async def aclose(self) -> None:
        return
