"""G.711 against its definition's landmarks and, where Python still has it, against audioop."""

import warnings

import numpy as np
import pytest

from perch.audio import g711

ALL_CODES = np.arange(256, dtype=np.uint8)


def test_mulaw_has_the_levels_of_the_standard() -> None:
    levels = {0x00: -32124, 0x7F: 0, 0x80: 32124, 0xFF: 0, 0xFE: 8, 0x7E: -8, 0xEF: 132}
    assert {code: int(g711.MULAW[code]) for code in levels} == levels


def test_alaw_has_the_levels_of_the_standard() -> None:
    levels = {0x55: -8, 0xD5: 8, 0x2A: -32256, 0xAA: 32256, 0xD4: 24}
    assert {code: int(g711.ALAW[code]) for code in levels} == levels


@pytest.mark.parametrize("table", [g711.MULAW, g711.ALAW], ids=["mulaw", "alaw"])
def test_compressing_a_level_finds_a_code_of_that_level(table: g711.Samples) -> None:
    levels = g711.expand(ALL_CODES, table)
    assert np.array_equal(g711.expand(g711.compress(levels, table), table), levels)


@pytest.mark.parametrize("table", [g711.MULAW, g711.ALAW], ids=["mulaw", "alaw"])
def test_compression_loses_at_most_half_a_step(table: g711.Samples) -> None:
    samples = np.arange(-32_000, 32_001, dtype=np.int16)
    error = np.abs(g711.expand(g711.compress(samples, table), table).astype(np.int32) - samples)
    assert np.all(error <= np.abs(samples.astype(np.int32)) / 32 + 8)


def test_every_code_agrees_with_audioop() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        audioop = pytest.importorskip("audioop", reason="Python 3.13 dropped audioop")
    codes = ALL_CODES.tobytes()
    assert g711.MULAW.astype("<i2").tobytes() == audioop.ulaw2lin(codes, 2)
    assert g711.ALAW.astype("<i2").tobytes() == audioop.alaw2lin(codes, 2)
