"""Arithmetic between samples, bytes and time."""

from hypothesis import given
from hypothesis import strategies as st

from perch.core import audio


@given(st.integers(0, 2**31 - 1))
def test_a_millisecond_survives_the_way_in_and_out(milliseconds: int) -> None:
    assert audio.samples_to_ms(audio.ms_to_samples(milliseconds)) == milliseconds


@given(st.integers(0, 10**10))
def test_a_sample_survives_the_way_out_and_in(samples: int) -> None:
    assert audio.seconds_to_samples(audio.samples_to_seconds(samples)) == samples


def test_only_pcm16_mono_at_16_khz_needs_no_converting() -> None:
    assert audio.AudioFormat().is_native
    assert not audio.AudioFormat(sample_rate=8000).is_native
    assert not audio.AudioFormat(audio.Encoding.FLOAT32).is_native
    assert audio.AudioFormat(audio.Encoding.MULAW, 8000).bytes_per_second == 8000
