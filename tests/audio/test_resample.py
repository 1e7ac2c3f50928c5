"""The resampler: independent of chunking, exact in length, true in pitch."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perch.audio.resample import Quality, Resampler, Signal

RATES = st.sampled_from([8_000, 11_025, 22_050, 24_000, 32_000, 44_100, 48_000])


def noise(count: int) -> Signal:
    return (np.random.default_rng(7).standard_normal(count) * 0.1).astype(np.float32)


def convert(rate: int, signal: Signal, cuts: list[int], quality: Quality = Quality.LIVE) -> Signal:
    resampler = Resampler(rate, quality=quality)
    pieces = [resampler.resample(piece) for piece in np.split(signal, sorted(cuts))]
    return np.concatenate([*pieces, resampler.flush()])


@given(RATES, st.lists(st.integers(0, 3000), max_size=12), st.sampled_from(Quality))
def test_the_output_does_not_depend_on_how_the_input_was_cut(
    rate: int, cuts: list[int], quality: Quality
) -> None:
    signal = noise(3000)
    assert np.array_equal(convert(rate, signal, cuts, quality), convert(rate, signal, [], quality))


@given(st.integers(8_000, 48_000), st.integers(0, 5000))
def test_the_output_is_as_long_as_the_input_to_the_sample(rate: int, count: int) -> None:
    assert abs(len(convert(rate, noise(count), [])) - count * 16_000 / rate) <= 1


@pytest.mark.parametrize("rate", [8_000, 44_100, 48_000])
def test_a_tone_keeps_its_pitch_and_level(rate: int) -> None:
    tone = np.sin(2 * np.pi * 1000 * np.arange(rate) / rate).astype(np.float32)
    out = convert(rate, tone, [])
    expected = np.sin(2 * np.pi * 1000 * np.arange(16_000) / 16_000)
    assert np.abs(out[500:-500] - expected[500:-500]).max() < 0.01


def test_what_lies_above_the_band_is_removed_instead_of_folded_into_it() -> None:
    tone = np.sin(2 * np.pi * 11_000 * np.arange(48_000) / 48_000).astype(np.float32)
    assert np.abs(convert(48_000, tone, [])[500:-500]).max() < 0.001


def test_live_audio_waits_at_most_80_ms_for_its_first_output() -> None:
    resampler = Resampler(8_000)
    frames = 0
    while resampler.resample(noise(160)).size == 0:
        frames += 1
    assert frames * 20 <= 80


def test_after_a_flush_another_signal_can_follow() -> None:
    resampler = Resampler(8_000)
    first = np.concatenate([resampler.resample(noise(800)), resampler.flush()])
    second = np.concatenate([resampler.resample(noise(800)), resampler.flush()])
    assert np.array_equal(first, second)
