"""Tone words: read exactly, whatever happens to them on the way, and never read out of anything else."""

import wave
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perch.audio import g711, tones
from perch.audio.decode import StreamDecoder
from perch.audio.resample import Quality
from perch.audio.vocabulary import VOCABULARY
from perch.core.audio import AudioFormat, Encoding
from perch.core.speech import Word

SPEECH = Path(__file__).parents[3] / "shared" / "speech"

WORDS = st.lists(st.sampled_from(VOCABULARY), max_size=12)
CHUNKS = st.lists(st.integers(1, 9_000), min_size=1, max_size=20)


def texts(words: list[Word]) -> list[str]:
    return [word.text for word in words]


def read_in_chunks(pcm: bytes, sizes: list[int]) -> list[Word]:
    reader = tones.ToneReader()
    words: list[Word] = []
    position = turn = 0
    while position < len(pcm):
        step = 2 * sizes[turn % len(sizes)]
        words += reader.feed(pcm[position : position + step])
        position, turn = position + step, turn + 1
    return words + reader.flush()


def scaled(pcm: bytes, factor: float) -> bytes:
    return np.rint(np.frombuffer(pcm, "<i2") * factor).astype("<i2").tobytes()


def noise(seconds: float, rms: float) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.random.default_rng(3).standard_normal(int(seconds * 16_000)) * rms


def over_telephone(pcm: bytes) -> bytes:
    narrow = np.frombuffer(pcm, "<i2")[::2]  # every tone is below 3 kHz: nothing folds
    decoder = StreamDecoder(AudioFormat(Encoding.MULAW, 8_000), quality=Quality.LIVE)
    return decoder.decode(g711.compress(narrow, g711.MULAW).tobytes()) + decoder.flush()


def test_the_vocabulary_is_large_plain_and_without_repeats() -> None:
    assert len(VOCABULARY) >= 192
    assert len(set(VOCABULARY)) == len(VOCABULARY)
    assert all(word.isalpha() and word.islower() for word in VOCABULARY)


def test_every_word_is_read_back_at_its_place() -> None:
    sentence = " ".join(VOCABULARY)
    assert tones.read(tones.synthesise(sentence)) == tones.layout([sentence])[0]


@given(WORDS, CHUNKS, st.integers(0, 1_000))
def test_any_words_in_any_chunking_are_read_exactly(words: list[str], sizes: list[int], lead: int) -> None:
    timing = tones.Timing(lead_s=lead / 16_000)
    expected = tones.layout([" ".join(words)], timing)[0]
    assert read_in_chunks(tones.synthesise(" ".join(words), timing), sizes) == expected


@given(st.binary(max_size=20_000), WORDS, CHUNKS)
def test_words_confidences_and_places_do_not_depend_on_chunking(
    rubbish: bytes, words: list[str], sizes: list[int]
) -> None:
    rubbish = rubbish[: len(rubbish) // 2 * 2]
    hiss = np.rint(noise(3, 600)).astype("<i2")
    clean = np.frombuffer(tones.synthesise(" ".join(words)), "<i2")
    count = min(len(hiss), len(clean))
    pcm = rubbish + (clean[:count] // 2 + hiss[:count]).astype("<i2").tobytes()
    assert read_in_chunks(pcm, sizes) == tones.read(pcm)


def test_utterances_stand_apart_by_the_pause() -> None:
    utterances = ["hello bird", "stop"]
    timing = tones.Timing(pause_s=1.5)
    first, second = tones.layout(utterances, timing)
    assert second[0].start - first[-1].end == 24_000
    assert tones.read(tones.synthesise(utterances, timing)) == [*first, *second]


@given(st.floats(0.003, 1.6))
def test_loudness_does_not_matter(factor: float) -> None:
    pcm = tones.synthesise("red green blue")
    assert texts(tones.read(scaled(pcm, factor))) == ["red", "green", "blue"]


def test_loudness_may_change_from_word_to_word() -> None:
    quiet, loud = tones.synthesise("red", level=0.01), tones.synthesise("blue", level=0.95)
    assert texts(tones.read(quiet + loud + quiet)) == ["red", "blue", "red"]


@settings(max_examples=25)
@given(WORDS)
def test_words_survive_the_telephone(words: list[str]) -> None:
    pcm = tones.synthesise(" ".join(words))
    heard, spoken = tones.read(over_telephone(pcm)), tones.layout([" ".join(words)])[0]
    assert texts(heard) == words
    assert all(abs(one.start - other.start) <= 40 for one, other in zip(heard, spoken, strict=True))


def test_every_word_survives_the_telephone() -> None:
    assert texts(tones.read(over_telephone(tones.synthesise(" ".join(VOCABULARY))))) == list(VOCABULARY)


def test_words_survive_noise_at_15_db() -> None:
    pcm = np.frombuffer(tones.synthesise(" ".join(VOCABULARY)), "<i2")
    signal_rms = 0.6 * 32_767 / 2
    noisy = pcm + noise(len(pcm) / 16_000 + 1, signal_rms / 10 ** (15 / 20))[: len(pcm)]
    heard = tones.read(np.clip(noisy, -32_768, 32_767).astype("<i2").tobytes())
    assert texts(heard) == list(VOCABULARY)
    assert max(word.confidence or 0 for word in heard) < 1.0


@settings(max_examples=50)
@given(st.integers(0, tones.TONE))
def test_a_stream_cut_inside_a_word_never_reads_it_twice_and_loses_no_other(cut: int) -> None:
    pcm = tones.synthesise("red green blue")
    middle = tones.layout(["red green blue"])[0][1]
    border = 2 * (middle.start + cut)
    before, after = texts(tones.read(pcm[:border])), texts(tones.read(pcm[border:]))
    assert before[0] == "red"
    assert after[-1] == "blue"
    together = [*before, *after].count("green")
    assert together == 1 if cut != tones.TONE // 2 else together <= 1


def test_the_last_word_needs_no_silence_after_it() -> None:
    pcm = tones.synthesise("go", tones.Timing(tail_s=0))
    assert texts(tones.read(pcm)) == ["go"]


@pytest.mark.parametrize("frequency", [440, 500, 1000, 2900])
def test_a_whistle_is_no_word(frequency: int) -> None:
    wave_form = np.sin(2 * np.pi * frequency * np.arange(32_000) / 16_000) * 10_000
    assert tones.read(wave_form.astype("<i2").tobytes()) == []


def test_a_pair_of_tones_that_goes_on_and_on_is_no_word() -> None:
    word = tones.synthesise("go", tones.Timing(lead_s=0, tail_s=0))
    assert tones.read(word * 10 + bytes(6_400)) == []


def test_silence_is_no_word_and_neither_is_noise() -> None:
    assert tones.read(bytes(320_000)) == []
    assert tones.read(noise(30, 3_000).astype("<i2").tobytes()) == []


def test_real_speech_is_no_word() -> None:
    clips = sorted(SPEECH.glob("*.wav"))
    if not clips:
        pytest.skip("no recordings of speech in ../shared/speech")
    for clip in clips:
        with wave.open(str(clip)) as recording:
            assert tones.read(recording.readframes(recording.getnframes())) == [], clip.name


def test_an_unknown_word_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="'xylophone' is not a tone word"):
        tones.synthesise("hello xylophone")


def test_a_gap_too_short_to_tell_words_apart_is_refused() -> None:
    with pytest.raises(ValueError, match=r"0\.06"):
        tones.synthesise("hello", tones.Timing(gap_s=0.05))
