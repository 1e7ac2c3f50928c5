"""One caller's pocketsphinx: synchronous, blocking, and only ever inside a worker process.

Three things about pocketsphinx shape this file, each worth tens of percent of word error rate:

- A decoder knows the channel's mean cepstrum only after seconds of speech, so a stream that starts cold
  is wrong for seconds. The mean is estimated from an utterance's first second before decoding it, and
  from the whole previous utterance after that.
- A decoder used for both streaming and whole utterances gives nonsense. There are two: ``partial``
  decodes in one pass while speech arrives, ``final`` decodes the whole utterance again, in three.
- Noise statistics and the mean leak from one utterance into the next. ``reinit_feat`` forgets both; a
  voice carries over the mean on purpose, and nothing else.
"""

import re
from array import array
from collections.abc import Iterator
from typing import Any

from pocketsphinx import Decoder

from perch.core.audio import BYTES_PER_SAMPLE, RATE, ms_to_samples, samples_to_bytes
from perch.core.speech import Word
from perch.inference.partials import HeardWord, StablePrefix
from perch.inference.recogniser import Recognition

SAMPLES_PER_FRAME = RATE // 100
SHORTEST = ms_to_samples(200)
"""Samples. The decoder refuses utterances it cannot make a few frames of."""

FAINTEST = 32
"""The largest sample of an utterance must exceed this (-60 dBFS): digital silence decodes to words."""

_CHANNEL = samples_to_bytes(RATE)
"""Bytes from which the channel's mean is first estimated."""

_PRONUNCIATION = re.compile(r"\(\d+\)$")
_MARKERS = ("<", "[", "+")


class Sphinx:
    """Both decoders, loaded: about 200 MB and half a second, shared by forking afterwards."""

    def __init__(self) -> None:
        common = {"loglevel": "FATAL", "maxhmmpf": 5000, "remove_dc": True}
        self.partial = Decoder(**common, fwdflat=False, bestpath=False)
        self.final = Decoder(**common)


class Caller:
    """The utterances of one caller, one after the other.

    Args:
        sphinx: Decoders that no other caller has used or will use.
        partials: Whether anybody wants text before the final.
    """

    def __init__(self, sphinx: Sphinx, *, partials: bool) -> None:
        self._sphinx = sphinx
        self._partials = partials
        self._channel_mean: str | None = None
        self._start()

    def _start(self) -> None:
        self._pcm = bytearray()
        self._decoded = 0
        self._streaming = False
        self._prefix = StablePrefix()

    def feed(self, pcm: bytes) -> str | None:
        """Take more of the utterance; return the text to show, or None if it has not changed."""
        self._pcm += pcm
        if not self._partials or not self._stream():
            return None
        position = self._decoded // BYTES_PER_SAMPLE
        if not self._prefix.due(position):
            return None
        return self._prefix.update(list(_heard(self._sphinx.partial)), position)

    def finish(self) -> Recognition:
        """Decode the whole utterance again, now that all of it is known, and be ready for the next."""
        pcm = bytes(self._pcm)
        if self._streaming:
            self._sphinx.partial.end_utt()
        self._start()
        if not _is_audible(pcm):
            return Recognition("")
        words = tuple(_recognise(self._sphinx.final, pcm))
        self._channel_mean = self._sphinx.final.get_cmn(update=False)
        return Recognition(" ".join(word.text for word in words), words, _mean_confidence(words))

    def _stream(self) -> bool:
        """Decode what has arrived, once there is enough to know the channel."""
        if not self._streaming:
            if len(self._pcm) < _CHANNEL or not _is_audible(self._pcm):
                return False
            self._begin_streaming()
        fresh = bytes(self._pcm[self._decoded :])
        fresh = fresh[: len(fresh) - len(fresh) % BYTES_PER_SAMPLE]
        if fresh:
            self._sphinx.partial.process_raw(fresh)
            self._decoded += len(fresh)
        return True

    def _begin_streaming(self) -> None:
        decoder = self._sphinx.partial
        if self._channel_mean is None:
            self._channel_mean = _estimate_channel(decoder, bytes(self._pcm[:_CHANNEL]))
        decoder.reinit_feat()
        decoder.set_cmn(self._channel_mean)
        decoder.start_utt()
        self._streaming = True


def _estimate_channel(decoder: Any, pcm: bytes) -> str:
    """The mean cepstrum of ``pcm``. Leaves the decoder in need of ``reinit_feat``."""
    decoder.reinit_feat()
    decoder.start_utt()
    decoder.process_raw(pcm, no_search=True, full_utt=True)
    mean: str = decoder.get_cmn(update=False)
    decoder.end_utt()
    return mean


def _recognise(decoder: Any, pcm: bytes) -> Iterator[Word]:
    decoder.reinit_feat()
    decoder.start_utt()
    try:
        decoder.process_raw(pcm, full_utt=True)
    finally:
        decoder.end_utt()
    limit = len(pcm) // BYTES_PER_SAMPLE
    for segment in decoder.seg() or ():
        if not segment.word.startswith(_MARKERS):
            start = min(segment.start_frame * SAMPLES_PER_FRAME, limit)
            end = min((segment.end_frame + 1) * SAMPLES_PER_FRAME, limit)
            yield Word(_spelling(segment.word), start, end, min(1.0, max(0.0, segment.prob)))


def _heard(decoder: Any) -> Iterator[HeardWord]:
    for segment in decoder.seg() or ():
        if not segment.word.startswith(_MARKERS):
            yield HeardWord(_spelling(segment.word), (segment.end_frame + 1) * SAMPLES_PER_FRAME)


def _spelling(word: str) -> str:
    """Without the mark of an alternative pronunciation: ``and(2)`` is ``and``."""
    return _PRONUNCIATION.sub("", word)


def _mean_confidence(words: tuple[Word, ...]) -> float | None:
    known = [word.confidence for word in words if word.confidence is not None]
    return sum(known) / len(known) if known else None


def _is_audible(pcm: bytes | bytearray) -> bool:
    if len(pcm) < samples_to_bytes(SHORTEST):
        return False
    samples = array("h", bytes(pcm[: len(pcm) - len(pcm) % BYTES_PER_SAMPLE]))
    return max(samples) > FAINTEST or min(samples) < -FAINTEST
