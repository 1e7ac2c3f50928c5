"""Stream decoding by declared format: values, chunking, and what is refused."""

import contextlib
import itertools
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perch.audio import g711
from perch.audio.decode import Buffer, StreamDecoder
from perch.core.audio import AudioFormat, Encoding
from perch.errors import BadAudio, BadConfig

ENCODINGS = st.sampled_from([encoding for encoding in Encoding if encoding.is_samples])
RATES = st.sampled_from([8_000, 16_000, 22_050, 44_100, 48_000])


def decode(audio_format: AudioFormat, *frames: bytes) -> bytes:
    decoder = StreamDecoder(audio_format)
    return b"".join([*map(decoder.decode, frames), decoder.flush()])


def pcm(*samples: float) -> bytes:
    return np.array(samples, dtype="<i2").tobytes()


def test_native_audio_passes_through_without_a_copy() -> None:
    payload = pcm(1, -2, 3)
    assert StreamDecoder(AudioFormat()).decode(payload) is payload


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_kind_of_buffer_is_taken(kind: Callable[[bytes], Buffer]) -> None:
    assert StreamDecoder(AudioFormat()).decode(kind(pcm(1, -2, 3))) == pcm(1, -2, 3)


@given(st.lists(st.integers(-32768, 32767), max_size=200))
def test_float32_is_pcm16_divided_by_32768(samples: list[int]) -> None:
    floats = (np.array(samples, dtype=np.float32) / 32768).astype("<f4").tobytes()
    assert decode(AudioFormat(Encoding.FLOAT32), floats) == pcm(*samples)


def test_floats_beyond_full_scale_are_clipped() -> None:
    floats = np.array([2.0, -2.0, 1.0, 3e38], dtype="<f4").tobytes()
    assert decode(AudioFormat(Encoding.FLOAT32), floats) == pcm(32767, -32768, 32767, 32767)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_floats_that_are_not_numbers_are_refused(value: float) -> None:
    frame = np.array([0.0, value, 0.0], dtype="<f4").tobytes()
    with pytest.raises(BadAudio, match="NaN or infinite"):
        StreamDecoder(AudioFormat(Encoding.FLOAT32)).decode(frame)


def test_mulaw_and_alaw_come_out_as_their_tables_say() -> None:
    codes = bytes(range(256))
    assert decode(AudioFormat(Encoding.MULAW), codes) == g711.MULAW.astype("<i2").tobytes()
    assert decode(AudioFormat(Encoding.ALAW), codes) == g711.ALAW.astype("<i2").tobytes()


def test_a_frame_cut_inside_a_sample_is_refused_with_its_numbers() -> None:
    with pytest.raises(BadAudio, match=r"3201 bytes .* 2 bytes: 1 too many"):
        StreamDecoder(AudioFormat()).decode(bytes(3201))
    with pytest.raises(BadAudio, match=r"4 bytes: 3 too many"):
        StreamDecoder(AudioFormat(Encoding.FLOAT32)).decode(bytes(7))


@pytest.mark.parametrize("channels", [0, 9])
def test_too_many_channels_are_refused_at_once(channels: int) -> None:
    with pytest.raises(BadConfig, match="up to 8"):
        StreamDecoder(AudioFormat(channels=channels))


@pytest.mark.parametrize("rate", [0, -1, 7_999, 48_001])
def test_a_rate_outside_the_range_is_refused(rate: int) -> None:
    with pytest.raises(BadConfig, match="8000 to 48000"):
        StreamDecoder(AudioFormat(sample_rate=rate))


@given(ENCODINGS, RATES, st.binary(max_size=4000), st.lists(st.integers(0, 1000), max_size=8))
def test_the_output_does_not_depend_on_how_the_stream_was_cut(
    encoding: Encoding, rate: int, noise: bytes, cuts: list[int]
) -> None:
    audio_format = AudioFormat(encoding, rate)
    if encoding is Encoding.FLOAT32:
        noise = np.frombuffer(noise[: len(noise) // 2 * 2], dtype="<i2").astype("<f4").tobytes()
    whole = noise[: len(noise) // encoding.width * encoding.width]
    edges = [0, *sorted(cut * encoding.width for cut in cuts), len(whole)]
    frames = [whole[a:b] for a, b in itertools.pairwise(edges)]
    assert decode(audio_format, *frames) == decode(audio_format, whole)


@given(ENCODINGS, RATES, st.integers(0, 3000))
def test_time_is_kept_to_the_sample(encoding: Encoding, rate: int, samples: int) -> None:
    out = decode(AudioFormat(encoding, rate), bytes(samples * encoding.width))
    assert abs(len(out) // 2 - samples * 16_000 / rate) <= 1


@given(ENCODINGS, RATES, st.lists(st.binary(max_size=300), max_size=5))
def test_any_bytes_give_audio_or_bad_audio(encoding: Encoding, rate: int, frames: list[bytes]) -> None:
    decoder = StreamDecoder(AudioFormat(encoding, rate))
    for frame in frames:
        with contextlib.suppress(BadAudio):
            assert len(decoder.decode(frame)) % 2 == 0
    assert len(decoder.flush()) % 2 == 0
