"""Audio as Riva clients send it: sniffed, cut anywhere, at any rate."""

import io
import wave

import numpy as np
import pytest
import soxr
from hypothesis import given
from hypothesis import strategies as st

from perch.audio.tones import read, synthesise
from perch.engine.audio import RivaDecoder
from perch.errors import BadAudio, BadConfig
from perch.riva.convert import DeclaredAudio

PCM = synthesise("hello perch")


def decode(payload: bytes, encoding: str = "linear_pcm", rate: int = 16_000, chunk: int = 3200) -> bytes:
    decoder = RivaDecoder(DeclaredAudio(encoding, rate, 1))
    pieces = [decoder.decode(payload[i : i + chunk]) for i in range(0, len(payload), chunk)]
    return b"".join([*pieces, decoder.flush()])


def at_rate(rate: int) -> bytes:
    signal = np.frombuffer(PCM, dtype="<i2").astype(np.float32) / 32_768
    pcm: bytes = np.rint(soxr.resample(signal, 16_000, rate) * 32_000).astype("<i2").tobytes()
    return pcm


def wav(pcm: bytes, rate: int = 16_000, channels: int = 1) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(channels)
        writer.setsampwidth(2)
        writer.setframerate(rate)
        writer.writeframes(pcm)
    return file.getvalue()


def words(pcm: bytes) -> str:
    return " ".join(word.text for word in read(pcm))


@given(st.integers(1, 5000))
def test_raw_samples_come_out_as_they_went_in_however_they_are_cut(chunk: int) -> None:
    assert decode(PCM, chunk=chunk) == PCM


@pytest.mark.parametrize("encoding", ["unspecified", "linear_pcm", "mulaw", "alaw"])
@pytest.mark.parametrize("chunk", [1, 7, 3200])
def test_a_wav_file_is_believed_whatever_is_declared(encoding: str, chunk: int) -> None:
    assert decode(wav(PCM), encoding, rate=0, chunk=chunk) == PCM


@pytest.mark.parametrize("rate", [8_000, 22_050, 48_000, 96_000])
def test_any_rate_that_riva_takes_is_resampled(rate: int) -> None:
    assert words(decode(at_rate(rate), rate=rate)) == "hello perch"


@pytest.mark.parametrize("rate", [8_000, 22_050, 48_000])
def test_a_wav_file_is_resampled_by_what_its_header_says(rate: int) -> None:
    assert words(decode(wav(at_rate(rate), rate), "unspecified", rate=0)) == "hello perch"


def test_a_rate_of_zero_means_16000_for_headerless_samples() -> None:
    assert decode(PCM, "unspecified", rate=0) == PCM


def test_half_a_sample_at_the_end_is_dropped() -> None:
    assert decode(PCM + b"\x01") == PCM


@pytest.mark.parametrize("length", [0, 2, 10])
def test_streams_shorter_than_any_header_are_decoded(length: int) -> None:
    assert decode(bytes(length)) == bytes(length)


@pytest.mark.parametrize("encoding", ["flac", "oggopus"])
def test_samples_that_were_declared_to_be_a_file_are_refused(encoding: str) -> None:
    with pytest.raises(BadAudio, match=encoding):
        decode(PCM, encoding)


def test_a_stereo_file_is_refused() -> None:
    with pytest.raises(BadAudio):
        decode(wav(PCM, channels=2))


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        (DeclaredAudio("linear_pcm", 16_000, 2), "audio_channel_count is 2"),
        (DeclaredAudio("linear_pcm", 4_000, 1), "sample_rate_hertz is 4000"),
        (DeclaredAudio("linear_pcm", -1, 1), "sample_rate_hertz is -1"),
        (DeclaredAudio("unknown", 16_000, 1), "encoding"),
    ],
)
def test_an_impossible_declaration_is_refused_at_once(declared: DeclaredAudio, message: str) -> None:
    with pytest.raises(BadConfig, match=message):
        RivaDecoder(declared)
