"""Tone words: speech that a few multiplications can recognise without a mistake.

A word of ``VOCABULARY`` is a pair of tones sounding together for 120 ms, followed by at least 60 ms
without it. All frequencies are multiples of 100 Hz within the telephone band, so words survive
8 kHz and µ-law, and every 20 ms window inside a word holds whole periods of both tones: its energy
is then in exactly two of the measured frequencies, whatever the phase. Noise, music and speech
spread theirs, which is why they read as no words at all.

The text of a stream depends on its audio alone, never on how it was cut into chunks.
"""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median

import numpy as np
import numpy.typing as npt

from perch.audio.vocabulary import VOCABULARY
from perch.core.audio import BYTES_PER_SAMPLE, RATE, seconds_to_samples
from perch.core.speech import Word

WINDOW = 320
"""Samples analysed at once: 20 ms."""

TONE = 1_920
"""Samples of a word."""

GAP = 960
"""Fewest samples between the end of a word and the start of the next."""

Windows = npt.NDArray[np.float32]

_FREQUENCIES = tuple(range(500, 3_000, 100))
_APART = 3  # steps between the tones of a pair, so that the beat of one pair is no other's
_PAIRS = [
    (low, high) for low, high in itertools.combinations(range(len(_FREQUENCIES)), 2) if high - low >= _APART
][: len(VOCABULARY)]
_NO_WORD = -1

_QUIET_RMS = 20.0  # of 32,768: what is below is silence, whatever its spectrum
_PURE = 0.8  # least share of a window's energy in its two strongest tones
_WEAKER = 0.1  # least share of the weaker of the two: a filter may tilt a pair, a whistle has no second tone
_FALLEN = 0.5  # a window with less of the word's energy than this is mostly after it
_EDGE = 0.4  # of the peak: where a word begins and ends
_LONGEST = TONE + WINDOW  # samples of a tone that can still be a word
_SHORTEST = TONE // 2  # of a word cut in two, the longer piece is the word
_NO_PCM = np.zeros(0, dtype=np.float32)


def _basis() -> Windows:
    time = np.arange(WINDOW) / RATE
    angles = 2 * np.pi * np.outer(time, _FREQUENCIES)
    waves = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
    return np.asarray(waves * np.sqrt(2 / WINDOW), dtype=np.float32)


def _codebook() -> npt.NDArray[np.int16]:
    book = np.full((len(_FREQUENCIES), len(_FREQUENCIES)), _NO_WORD, dtype=np.int16)
    for index, (low, high) in enumerate(_PAIRS):
        book[low, high] = book[high, low] = index
    return book


_BASIS = _basis()
_CODEBOOK = _codebook()
_INDEX = {word: index for index, word in enumerate(VOCABULARY)}


# --- Writing


@dataclass(frozen=True, slots=True)
class Timing:
    """Where the words of a synthesised stream stand, in seconds. ``gap_s`` is at least 0.06."""

    lead_s: float = 0.3
    """Silence before the first word."""
    gap_s: float = 0.06
    """Silence between words of an utterance."""
    pause_s: float = 1.0
    """Silence between utterances."""
    tail_s: float = 0.3
    """Silence after the last word."""


DEFAULT_TIMING = Timing()


def layout(utterances: Sequence[str], timing: Timing = DEFAULT_TIMING) -> list[list[Word]]:
    """The words of each utterance (a string of words), with the positions ``synthesise`` gives them.

    Raises:
        ValueError: A word is not in ``VOCABULARY``, or the gap is too short to tell words apart.
    """
    if seconds_to_samples(timing.gap_s) < GAP:
        raise ValueError(f"words need {GAP / RATE} s between them, not {timing.gap_s}")
    position = seconds_to_samples(timing.lead_s)
    placed: list[list[Word]] = []
    for utterance in utterances:
        placed.append(_place(utterance.split(), position, timing))
        if placed[-1]:
            position = placed[-1][-1].end + seconds_to_samples(timing.pause_s)
    return placed


def synthesise(
    utterances: Sequence[str] | str, timing: Timing = DEFAULT_TIMING, *, level: float = 0.6
) -> bytes:
    """The tone words of ``utterances`` as 16 kHz PCM, peaking at ``level`` of full scale.

    Raises:
        ValueError: As for ``layout``.
    """
    sentences = [utterances] if isinstance(utterances, str) else utterances
    words = [word for sentence in layout(sentences, timing) for word in sentence]
    speech_end = words[-1].end if words else seconds_to_samples(timing.lead_s)
    samples = np.zeros(speech_end + seconds_to_samples(timing.tail_s), dtype="<i2")
    for word in words:
        samples[word.start : word.end] = _sound(_INDEX[word.text], level)
    return samples.tobytes()


def _place(words: Iterable[str], position: int, timing: Timing) -> list[Word]:
    step = TONE + seconds_to_samples(timing.gap_s)
    starts = itertools.count(position, step)
    return [Word(_known(word), start, start + TONE, 1.0) for word, start in zip(words, starts, strict=False)]


def _known(word: str) -> str:
    if word not in _INDEX:
        raise ValueError(f"{word!r} is not a tone word; see perch.audio.vocabulary")
    return word


def _sound(index: int, level: float) -> npt.NDArray[np.int16]:
    # Cosines, not sines: the first sample is then the loudest, and the onset is exact to the sample.
    time = np.arange(TONE) / RATE
    low, high = (_FREQUENCIES[step] for step in _PAIRS[index])
    wave = (np.cos(2 * np.pi * low * time) + np.cos(2 * np.pi * high * time)) / 2
    return np.rint(wave * level * 32_767).astype(np.int16)


# --- Reading


@dataclass(frozen=True, slots=True)
class Analysis:
    """What each 20 ms window holds: a word (or -1), its share of pure tone, its energy."""

    codes: npt.NDArray[np.int16]
    purity: Windows
    energy: Windows


def analyse(windows: Windows) -> Analysis:
    """Measure windows of ``WINDOW`` samples, one per row. Each row's result depends on that row only."""
    # One product per row, not one for all: BLAS sums differently for different shapes, and a
    # result that changed in its last bit with the size of a chunk would not be a pure function.
    parts = (windows[:, None, :] @ _BASIS)[:, 0, :].reshape(len(windows), 2, -1)
    power = np.einsum("wpf,wpf->wf", parts, parts)
    strongest = np.argpartition(power, -2, axis=1)[:, -2:]
    peaks = np.sort(np.take_along_axis(power, strongest, axis=1), axis=1)
    energy = np.einsum("ws,ws->w", windows, windows)
    sounding = energy > _QUIET_RMS**2 * WINDOW
    scale = np.where(sounding, energy, np.float32(np.inf))
    purity = np.minimum(peaks.sum(axis=1) / scale, np.float32(1.0))
    is_word = (purity >= _PURE) & (peaks[:, 0] >= _WEAKER * scale)
    codes = np.where(is_word, _CODEBOOK[strongest[:, 0], strongest[:, 1]], _NO_WORD).astype(np.int16)
    return Analysis(codes, purity, energy)


class Framer:
    """Cuts PCM of any chunking into windows of ``WINDOW`` samples on one grid."""

    def __init__(self) -> None:
        self._rest = b""

    def windows(self, pcm: bytes) -> Windows:
        """The windows ``pcm`` completes, one per row."""
        joined = self._rest + pcm if self._rest else pcm
        whole = len(joined) // (WINDOW * BYTES_PER_SAMPLE) * WINDOW * BYTES_PER_SAMPLE
        self._rest = joined[whole:]
        samples = np.frombuffer(joined, dtype="<i2", count=whole // BYTES_PER_SAMPLE)
        return samples.astype(np.float32).reshape(-1, WINDOW)

    def padding(self) -> bytes:
        """The silence that completes the last window; none if nothing waits."""
        return bytes(-len(self._rest) % (WINDOW * BYTES_PER_SAMPLE))


@dataclass(slots=True)
class _Run:
    """Windows in a row that may be a word, with the one before them."""

    code: int
    start: int
    energy: float
    windows: list[Windows] = field(default_factory=list)
    purities: list[float] = field(default_factory=list)
    strangers: int = 0
    has_other_word: bool = False
    length: int = 0

    def add(self, window: Windows, code: int, purity: float) -> None:
        self.length += WINDOW
        if self.length <= _LONGEST + 2 * WINDOW:
            self.windows.append(window)
        if code == self.code:
            self.purities.append(purity)
            self.strangers = 0
        else:
            self.has_other_word = self.has_other_word or code != _NO_WORD
            self.strangers += 1

    def is_over(self, energy: float) -> bool:
        return energy < _FALLEN * self.energy or self.strangers > 1

    def word(self) -> Word | None:
        if self.has_other_word or len(self.purities) < 2:
            return None
        loudness = np.abs(np.concatenate(self.windows))
        sounding = np.flatnonzero(loudness > _EDGE * loudness.max())
        start, end = int(sounding[0]), int(sounding[-1]) + 1
        if not _SHORTEST < end - start <= _LONGEST:
            return None
        confidence = round(median(self.purities), 3)  # the first and last window may hold silence too
        return Word(VOCABULARY[self.code], self.start + start, self.start + end, confidence)


class ToneReader:
    """Reads the tone words of one stream.

    Positions are samples from the first sample fed. A word's confidence is the share of its energy
    in its two tones. A word cut in two by the borders of streams is read in one of them at most.
    """

    def __init__(self) -> None:
        self._framer = Framer()
        self._position = 0
        self._before = _NO_PCM
        self._run: _Run | None = None

    def feed(self, pcm: bytes) -> list[Word]:
        """The words that ``pcm`` (whole samples, any number) completes."""
        windows = self._framer.windows(pcm)
        if not len(windows):
            return []
        found = analyse(windows)
        if self._run is None and not (found.codes != _NO_WORD).any():
            self._skip(windows)
            return []
        rows = zip(windows, found.codes.tolist(), found.purity.tolist(), found.energy.tolist(), strict=True)
        words = [self._step(window, code, purity, energy) for window, code, purity, energy in rows]
        return [word for word in words if word is not None]

    def flush(self) -> list[Word]:
        """The word the stream ended in, if it did. Nothing may be fed after it."""
        return self.feed(self._framer.padding() + bytes(WINDOW * BYTES_PER_SAMPLE))

    def _skip(self, windows: Windows) -> None:
        self._position += windows.size
        self._before = windows[-1]

    def _step(self, window: Windows, code: int, purity: float, energy: float) -> Word | None:
        if self._run is None and code != _NO_WORD:
            self._run = _Run(code, self._position - self._before.size, energy, [self._before])
        word = None
        if self._run is not None:
            self._run.add(window, code, purity)
            if self._run.is_over(energy):
                word = self._run.word()
                self._run = None
        self._position += WINDOW
        self._before = window
        return word


def read(pcm: bytes) -> list[Word]:
    """The tone words of a whole recording."""
    reader = ToneReader()
    return reader.feed(pcm) + reader.flush()
