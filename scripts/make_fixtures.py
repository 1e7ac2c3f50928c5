"""Make the audio in tests/fixtures/audio: speech, tone words, silence and noise, in many containers.

Needs espeak-ng and opusenc (Debian: espeak-ng, opus-tools). Run from the root of the checkout::

    python scripts/make_fixtures.py

The files are committed: tests need neither program.
"""

import hashlib
import io
import json
import subprocess
import sys
import wave
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import av
import numpy as np
import numpy.typing as npt

from perch.audio import g711, tones
from perch.audio.decode import to_pcm16
from perch.audio.files import decode_file
from perch.core.audio import RATE

FOLDER = Path("tests/fixtures/audio")
LIMIT = 3_000_000

SPEECH = "go forward ten meters"
UTTERANCES = ["hello bird", "stop now"]
TIMING = tones.Timing(pause_s=1.5)
ENCODERS = {
    "flac": ("flac", "flac", RATE),
    "mp3": ("mp3", "mp3", RATE),
    "m4a": ("ipod", "aac", RATE),
    "webm": ("webm", "libopus", 48_000),
}

Samples = npt.NDArray[np.int16]


@dataclass(frozen=True)
class Fixture:
    """One file: its text, what it is, and its bytes."""

    file: str
    text: str
    made: str
    data: bytes


def main() -> None:
    """Write every fixture, the manifest and nothing else."""
    made = list(fixtures())
    total = sum(len(fixture.data) for fixture in made)
    if total > LIMIT:
        sys.exit(f"{total} bytes of fixtures are more than {LIMIT}; make them shorter")
    FOLDER.mkdir(parents=True, exist_ok=True)
    for fixture in made:
        (FOLDER / fixture.file).write_bytes(fixture.data)
    manifest = {"files": [describe(fixture) for fixture in made]}
    (FOLDER / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    print(f"{len(made)} files, {total} bytes")


def describe(fixture: Fixture) -> dict[str, str]:
    """The manifest's entry for a file."""
    entry = asdict(fixture)
    data = entry.pop("data")
    return {**entry, "sha256": hashlib.sha256(data).hexdigest()}


def fixtures() -> Iterator[Fixture]:
    """Every file there should be."""
    yield from speech()
    yield from tone_words()
    yield from nothing_said()


def speech() -> Iterator[Fixture]:
    """A synthetic voice, wide and narrow."""
    pcm = spoken(SPEECH)
    made = f"espeak-ng -v en-us -s 150 {SPEECH!r}"
    yield Fixture("espeak_16k.wav", SPEECH, f"{made}, resampled to 16 kHz", wav(pcm))
    narrow = resampled(wav(pcm), 8_000)
    yield Fixture("espeak_8k.wav", SPEECH, f"{made}, resampled to 8 kHz", wav(narrow, rate=8_000))


def tone_words() -> Iterator[Fixture]:
    """The same words in every container (see ``perch.audio.tones``)."""
    text = " ".join(UTTERANCES)
    made = f"perch.audio.tones.synthesise({UTTERANCES}, Timing(pause_s=1.5))"
    pcm = np.frombuffer(tones.synthesise(UTTERANCES, TIMING), dtype="<i2")
    recording = wav(pcm)
    yield Fixture("tones_16k.wav", text, made, recording)
    narrow = pcm[::2]  # every tone is below 3 kHz: nothing folds
    yield Fixture("tones_8k.wav", text, f"{made}, every other sample", wav(narrow, rate=8_000))
    codes = g711.compress(narrow, g711.MULAW).tobytes()
    yield Fixture("tones_8k.mulaw", text, f"{made}, every other sample, µ-law, no header", codes)
    yield Fixture("tones_48k.wav", text, f"{made}, resampled", wav(resampled(recording, 48_000), rate=48_000))
    both = np.stack([pcm, pcm // 2], axis=1)
    yield Fixture("tones_stereo.wav", text, f"{made}, right channel at half level", wav(both, channels=2))
    for kind, (container, codec, rate) in ENCODERS.items():
        yield Fixture(f"tones.{kind}", text, f"{made}, {codec} by PyAV", encode(pcm, container, codec, rate))
    yield Fixture("tones.ogg", text, f"{made}, opusenc", opusenc(recording))


def nothing_said() -> Iterator[Fixture]:
    """What must stay without a word."""
    random = np.random.default_rng(2024)
    white = random.standard_normal(3 * RATE)
    yield Fixture("silence.wav", "", "3 s of zeros", wav(np.zeros(3 * RATE, dtype=np.int16)))
    yield Fixture("noise_white.wav", "", "3 s, numpy default_rng(2024), RMS 1000", wav(levelled(white)))
    spectrum = np.fft.rfft(white)
    spectrum /= np.sqrt(np.maximum(np.arange(len(spectrum)), 1))
    pink = np.fft.irfft(spectrum, len(white))
    yield Fixture(
        "noise_pink.wav", "", "the white noise at 3 dB less per octave, RMS 1000", wav(levelled(pink))
    )


def spoken(text: str) -> Samples:
    """``text`` in espeak-ng's voice, at 16 kHz."""
    command = ["espeak-ng", "-v", "en-us", "-s", "150", "--stdout", text]
    recording = subprocess.run(command, check=True, capture_output=True).stdout  # noqa: S603
    return resampled(recording, RATE)


def resampled(recording: bytes, rate: int) -> Samples:
    """The samples of a mono WAV at another rate."""
    pcm = np.frombuffer(b"".join(decode_file(recording)), dtype="<i2")
    if rate == RATE:
        return pcm
    import soxr  # noqa: PLC0415

    converted = soxr.resample(pcm.astype(np.float32) / 32_768, RATE, rate, "HQ")
    return np.frombuffer(to_pcm16(converted), dtype="<i2")


def levelled(signal: npt.NDArray[np.float64], rms: float = 1_000.0) -> Samples:
    """``signal`` at a loudness."""
    return np.asarray(np.rint(signal * rms / np.sqrt(np.mean(signal**2))), dtype=np.int16)


def wav(samples: npt.NDArray[np.int16], *, rate: int = RATE, channels: int = 1) -> bytes:
    """A 16-bit WAV file."""
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.astype("<i2").tobytes())
    return out.getvalue()


def encode(samples: Samples, container_format: str, codec: str, rate: int) -> bytes:
    """The samples in another container, by FFmpeg."""
    out = io.BytesIO()
    with av.open(out, "w", format=container_format, options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream(codec, rate=rate, layout="mono")
        assert isinstance(stream, av.AudioStream)
        frame = av.AudioFrame.from_ndarray(samples[np.newaxis, :], format="s16", layout="mono")
        frame.sample_rate = RATE
        converter = av.AudioResampler(format=stream.format, layout="mono", rate=rate)
        for piece in [*converter.resample(frame), *converter.resample(None), None]:
            container.mux(stream.encode(piece))
    return out.getvalue()


def opusenc(recording: bytes) -> bytes:
    """Ogg Opus by the reference encoder, whose lengths are exact to the sample."""
    with TemporaryDirectory() as folder:
        source, target = Path(folder, "in.wav"), Path(folder, "out.ogg")
        source.write_bytes(recording)
        command = ["opusenc", "--quiet", "--serial", "1", str(source), str(target)]
        subprocess.run(command, check=True)  # noqa: S603
        return target.read_bytes()


if __name__ == "__main__":
    main()
