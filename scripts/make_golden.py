"""Make the derived recordings in tests/fixtures/golden and what tests/golden says about every clip.

Run from the root of the checkout::

    ./run python scripts/make_golden.py

The recordings that others made are in the repository already (tests/fixtures/speech and
tests/fixtures/golden/README.md say whose they are); everything else is computed from them, the same
bytes each time.
"""

import hashlib
import json
import sys
import wave
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.filter
import numpy as np
import numpy.typing as npt

from perch.core.audio import RATE
from perch.quality.manifest import Clip
from perch.quality.recording import record, speech_bounds

SPEECH = Path("tests/fixtures/speech")
AUDIO = Path("tests/fixtures/golden")
GOLDEN = Path("tests/golden")
LIMIT = 3_000_000

Samples = npt.NDArray[np.int16]
Signal = npt.NDArray[np.float64]

PUBLIC_DOMAIN = "public domain"
BSD = "BSD-2-Clause, Carnegie Mellon University"
OWN = "made by scripts/make_golden.py"


@dataclass(frozen=True)
class Source:
    """A recording somebody made."""

    file: Path
    text: str
    licence: str
    source: str


LJ = Source(
    SPEECH / "lj001_0005.wav",
    "the invention of movable metal letters in the middle of the fifteenth century may justly be considered"
    " as the invention of the art of printing",
    PUBLIC_DOMAIN,
    "LJ Speech LJ001-0005 (LibriVox)",
)
AUSTEN = Source(
    SPEECH / "ps_librivox_0880.wav",
    "he was not an ill disposed young man",
    PUBLIC_DOMAIN,
    "LibriVox, Sense and Sensibility",
)
JFK = Source(
    SPEECH / "jfk.wav",
    "and so my fellow americans ask not what your country can do for you ask what you can do for your country",
    PUBLIC_DOMAIN,
    "inaugural address, 1961, archive recording",
)
METERS = Source(AUDIO / "goforward.wav", "go forward ten meters", BSD, "pocketsphinx test/data/goforward.raw")
CARDS = Source(
    AUDIO / "cards_005.wav",
    "eight of spades four of clubs seven of hearts",
    BSD,
    "pocketsphinx test/data/cards/005.wav",
)
RIVA = Source(
    AUDIO / "riva_sample.wav",
    "what is natural language processing",
    "MIT, NVIDIA CORPORATION & AFFILIATES",
    "nvidia-riva/python-clients data/examples/en-US_sample.wav",
)
VCTK = Source(
    AUDIO / "vctk_p286_011.wav",
    "when a man looks for something beyond his reach his friends say he is looking for the pot of gold"
    " at the end of the rainbow",
    "CC BY 4.0, CSTR VCTK Corpus",
    "VCTK p286, sentence 011; British English",
)
LONG = [JFK, LJ, AUSTEN, METERS, CARDS, RIVA, VCTK] * 3
GAP_S = 0.7


@dataclass(frozen=True)
class Golden:
    """One clip: which audio, what is said, and how it came about."""

    name: str
    category: str
    files: tuple[Path, ...]
    text: str
    licence: str
    source: str
    made: str = ""
    recipe: dict[str, Any] = field(default_factory=dict)
    voice: tuple[float, float] | None = None
    """Where speech begins and ends, if the audio itself does not show it."""


def main() -> None:
    """Write the derived audio, one JSON file for each clip, and their list."""
    clips = [*as_they_are(), *fast(), *noisy(), *music(), *silence(), *long(), *narrow()]
    size = sum(path.stat().st_size for path in AUDIO.glob("*.wav"))
    if size > LIMIT:
        sys.exit(f"{size} bytes of recordings are more than {LIMIT}; make them shorter")
    for clip in clips:
        _write(GOLDEN / f"{clip.name}.json", described(clip))
    _write(GOLDEN / "manifest.json", {"clips": [f"{clip.name}.json" for clip in clips]})
    print(f"{len(clips)} clips, {size} bytes of audio")


def described(clip: Golden) -> dict[str, Any]:
    """What the runner reads, and what a reader wants to know."""
    kind = Clip(
        clip.name,
        clip.text,
        clip.category,
        clip.files,
        clip.recipe.get("gap_s", 0.0),
        clip.recipe.get("resample"),
        clip.recipe.get("encoding", "pcm16"),
    )
    recording = record(kind)
    start, end = clip.voice or (recording.speech_start_s, recording.speech_end_s)
    names = [f"../fixtures/{path.parent.name}/{path.name}" for path in clip.files]
    audio = {"concat": names} if len(names) > 1 else {"file": names[0]}
    only = {} if len(names) > 1 else {"sha256": hashlib.sha256(clip.files[0].read_bytes()).hexdigest()}
    return {
        **audio,
        **clip.recipe,
        "category": clip.category,
        "text": clip.text,
        "sample_rate": recording.sample_rate,
        "duration": round(recording.duration_s, 3),
        **({"speech_start_s": round(start, 2), "speech_end_s": round(end, 2)} if clip.text else {}),
        "licence": clip.licence,
        "source": clip.source,
        **({"made": clip.made} if clip.made else {}),
        **only,
    }


def as_they_are() -> Iterator[Golden]:
    """Clean, accented, and one that is noisy because it is old."""
    names = {AUSTEN: "austen", LJ: "printing", METERS: "meters", CARDS: "cards", RIVA: "riva_sample"}
    for source, name in names.items():
        yield of(source, f"clean_{name}", "clean")
    yield of(VCTK, "accented_rainbow", "accented")
    yield of(JFK, "noisy_jfk", "noisy")


def fast() -> Iterator[Golden]:
    """The same voice in less time, at the same pitch."""
    for source, name, tempo in ((LJ, "printing", 1.3), (CARDS, "cards", 1.4)):
        made = f"FFmpeg atempo={tempo} of {source.file.name}"
        yield derived(source, f"fast_{name}", "fast", made=made, samples=faster(load(source.file), tempo))


def noisy() -> Iterator[Golden]:
    """White noise, and a crowd."""
    random = np.random.default_rng(2024)
    voice = load(LJ.file)
    white = random.standard_normal(len(voice))
    made = "white noise, numpy default_rng(2024), 10 dB SNR"
    yield derived(LJ, "noisy_white", "noisy", made=made, samples=mixed(voice, white, 10), voice=voice)
    voice = load(VCTK.file)
    made = "babble of seven recordings backwards, 10 dB SNR"
    yield derived(
        VCTK, "noisy_babble", "noisy", made=made, samples=mixed(voice, babble(len(voice)), 10), voice=voice
    )


def music() -> Iterator[Golden]:
    """Chords and a melody under the voice."""
    for source, name, snr in ((LJ, "printing", 10), (AUSTEN, "austen", 5)):
        voice = load(source.file)
        made = f"synthesised chords and melody under {source.file.name}, {snr} dB SNR"
        samples = mixed(voice, song(len(voice)), snr)
        yield derived(source, f"music_{name}", "music", made=made, samples=samples, voice=voice)


def silence() -> Iterator[Golden]:
    """Nothing is said: digital zeros, and a room."""
    random = np.random.default_rng(2025)
    noise = np.cumsum(random.standard_normal(5 * RATE))
    noise = noise - np.convolve(noise, np.ones(400) / 400, "same")
    room = np.asarray(np.rint(noise * 30 / np.sqrt(np.mean(noise**2))), dtype=np.int16)
    for name, made, samples in (
        ("digital", "3 s of zeros", np.zeros(3 * RATE, dtype=np.int16)),
        ("room", "5 s of low noise, numpy default_rng(2025), RMS 30 (-61 dB)", room),
    ):
        path = save(f"silence_{name}", samples)
        yield Golden(f"silence_{name}", "silence", (path,), "", OWN, OWN, made)


def long() -> Iterator[Golden]:
    """More than two minutes, put together when it is sent."""
    licences = "; ".join(dict.fromkeys(source.licence for source in LONG))
    yield Golden(
        "long_all",
        "long",
        tuple(source.file for source in LONG),
        " ".join(source.text for source in LONG),
        licences,
        "; ".join(dict.fromkeys(source.source for source in LONG)),
        f"seven recordings three times, {GAP_S} s of silence between them",
        {"gap_s": GAP_S},
    )


def narrow() -> Iterator[Golden]:
    """At 8 kHz, as telephones send it; resampled when it is sent."""
    yield of(LJ, "telephone_printing", "telephone", {"resample": 8_000})
    yield of(CARDS, "telephone_cards_mulaw", "telephone", {"resample": 8_000, "encoding": "mulaw"})
    yield of(VCTK, "telephone_rainbow_mulaw", "telephone", {"resample": 8_000, "encoding": "mulaw"})


# --- making them ---------------------------------------------------------------------------------------


def of(source: Source, name: str, category: str, recipe: dict[str, Any] | None = None) -> Golden:
    return Golden(
        name, category, (source.file,), source.text, source.licence, source.source, recipe=recipe or {}
    )


def derived(
    source: Source,
    name: str,
    category: str,
    *,
    made: str,
    samples: Samples,
    voice: Samples | None = None,
) -> Golden:
    """A new recording of ``source``; ``voice`` shows where speech is, if ``samples`` does not."""
    path = save(name, samples)
    bounds = None if voice is None else speech_bounds(voice, RATE)
    return Golden(
        name, category, (path,), source.text, source.licence, source.source, f"changed: {made}", voice=bounds
    )


def faster(samples: Samples, tempo: float) -> Samples:
    """``samples`` in 1/``tempo`` of the time at the same pitch."""
    graph = av.filter.Graph()
    source = graph.add_abuffer(sample_rate=RATE, format="s16", layout="mono", time_base=Fraction(1, RATE))
    stretch = graph.add("atempo", str(tempo))
    form = graph.add("aformat", f"sample_fmts=s16:sample_rates={RATE}:channel_layouts=mono")
    sink = graph.add("abuffersink")
    source.link_to(stretch)
    stretch.link_to(form)
    form.link_to(sink)
    graph.configure()
    frame = av.AudioFrame.from_ndarray(samples[np.newaxis, :], format="s16", layout="mono")
    frame.sample_rate, frame.pts = RATE, 0
    source.push(frame)
    source.push(None)
    pieces: list[Samples] = []
    while True:
        try:
            stretched = sink.pull()
        except (av.error.EOFError, av.error.BlockingIOError):
            return np.concatenate(pieces)
        assert isinstance(stretched, av.AudioFrame)
        pieces.append(stretched.to_ndarray().reshape(-1).astype(np.int16))


def mixed(voice: Samples, other: Signal, snr_db: float) -> Samples:
    """``voice`` over ``other``, whose power is ``snr_db`` below that of the voice while it speaks."""
    start, end = speech_bounds(voice, RATE)
    spoken = voice[int(start * RATE) : int(end * RATE)].astype(np.float64)
    level = np.sqrt(np.mean(spoken**2)) / 10 ** (snr_db / 20)
    sum_ = voice + other * level / np.sqrt(np.mean(other**2))
    return np.asarray(np.rint(sum_ * min(1.0, 32_000 / np.abs(sum_).max())), dtype=np.int16)


def babble(length: int) -> Signal:
    """Seven voices at once, backwards so that no word of theirs is one."""
    crowd = np.zeros(length)
    for shift, source in enumerate((JFK, LJ, AUSTEN, METERS, CARDS, RIVA, VCTK)):
        voice = load(source.file)[::-1].astype(np.float64)
        crowd += np.roll(np.resize(voice / np.sqrt(np.mean(voice**2)), length), shift * RATE // 3)
    return crowd


def song(length: int) -> Signal:
    """Four chords of two seconds, a beat, and a melody of half notes, each with a few overtones."""
    chords = ((220.0, 261.6, 329.6), (174.6, 220.0, 261.6), (196.0, 246.9, 293.7), (164.8, 207.7, 246.9))
    melody = (440.0, 523.3, 659.3, 587.3, 523.3, 493.9, 440.0, 392.0)
    time = np.arange(length) / RATE
    out = np.zeros(length)
    for tones, every in (*((chord, 2.0) for chord in zip(*chords, strict=True)), (melody, 0.5)):
        step = (time // every).astype(int) % len(tones)
        pitch = np.asarray(tones)[step]
        fading = np.exp(-2.0 * (time % every) / every)
        out += fading * sum(np.sin(2 * np.pi * pitch * k * (time % every)) / k for k in (1, 2, 3))
    return out


def load(path: Path) -> Samples:
    with wave.open(str(path)) as file:
        return np.frombuffer(file.readframes(file.getnframes()), dtype="<i2")


def save(name: str, samples: Samples) -> Path:
    path = AUDIO / f"{name}.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        file.writeframes(samples.astype("<i2").tobytes())
    return path


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
