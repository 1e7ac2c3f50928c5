"""The scripted recogniser keeps every promise of the interface, and its words are the audio's."""

import asyncio
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perch.audio.tones import Timing, layout, synthesise
from perch.audio.vocabulary import VOCABULARY
from perch.core.speech import RecognitionConfig
from perch.errors import EngineFailed, EngineFull
from perch.inference.recogniser import Capabilities, Recogniser, SpeechDetector, Voice
from perch.inference.scripted import CAPABILITIES, ScriptedRecogniser

CONFIG = RecognitionConfig()


def chunks(pcm: bytes, samples: int) -> list[bytes]:
    return [pcm[at : at + 2 * samples] for at in range(0, len(pcm), 2 * samples)]


async def test_it_is_what_the_interface_says() -> None:
    recogniser: Recogniser = ScriptedRecogniser()
    voice: Voice = await recogniser.open(CONFIG)
    detector: SpeechDetector = recogniser.detector()
    assert recogniser.healthy
    assert recogniser.capabilities is CAPABILITIES
    assert detector.frame == 320
    await voice.aclose()
    await recogniser.aclose()


async def test_text_grows_word_by_word_and_is_given_only_when_it_changed() -> None:
    voice = await ScriptedRecogniser().open(CONFIG)
    texts = [await voice.feed(chunk) for chunk in chunks(synthesise("red green blue"), 320)]
    assert [text for text in texts if text is not None] == ["red", "red green", "red green blue"]


@settings(max_examples=30)
@given(st.lists(st.sampled_from(VOCABULARY), max_size=6), st.integers(1, 5_000))
def test_the_final_does_not_depend_on_chunking(words: list[str], samples: int) -> None:
    async def recognise() -> None:
        voice = await ScriptedRecogniser().open(CONFIG)
        sentence = " ".join(words)
        for chunk in chunks(synthesise(sentence), samples):
            await voice.feed(chunk)
        final = await voice.finish()
        assert final.text == sentence
        assert final.words == tuple(layout([sentence])[0])
        assert final.confidence == (1.0 if words else None)

    asyncio.run(recognise())


async def test_positions_begin_again_with_each_utterance() -> None:
    voice = await ScriptedRecogniser().open(CONFIG)
    finals = []
    for _ in range(2):
        await voice.feed(synthesise("stop"))
        finals.append(await voice.finish())
    assert finals[0] == finals[1]
    assert finals[0].words[0].start == 4_800


async def test_an_utterance_of_nothing_has_no_words_and_no_confidence() -> None:
    voice = await ScriptedRecogniser().open(CONFIG)
    final = await voice.finish()
    assert (final.text, final.words, final.confidence) == ("", (), None)


async def test_one_stream_too_many_is_refused_and_a_closed_one_makes_room() -> None:
    recogniser = ScriptedRecogniser(Capabilities(model="scripted", languages=("en-US",), slots=1))
    voice = await recogniser.open(CONFIG)
    with pytest.raises(EngineFull, match="All 1 streams"):
        await recogniser.open(CONFIG)
    await voice.aclose()
    await voice.aclose()
    await recogniser.open(CONFIG)
    assert recogniser.open_voices == 1


async def test_a_dead_recogniser_fails_its_voices_and_says_why() -> None:
    recogniser = ScriptedRecogniser()
    voice = await recogniser.open(CONFIG)
    waiting = asyncio.create_task(recogniser.wait_unhealthy())
    await asyncio.sleep(0)
    recogniser.fail("a test said so")
    assert await asyncio.wait_for(waiting, 30) == "a test said so"
    assert not recogniser.healthy
    for call in (voice.feed(b""), voice.finish(), recogniser.open(CONFIG)):
        with pytest.raises(EngineFailed, match="a test said so"):
            await call
    await voice.aclose()
    assert recogniser.open_voices == 0


async def test_the_detector_hears_words_and_neither_silence_nor_noise() -> None:
    timing = Timing(lead_s=0.4, tail_s=0.4)
    heard = await ScriptedRecogniser().detector().probabilities(synthesise("hello", timing))
    assert heard == [0.0] * 20 + [pytest.approx(1.0, abs=0.01)] * 6 + [0.0] * 20
    noise = (np.random.default_rng(5).standard_normal(160_000) * 3_000).astype("<i2").tobytes()
    assert max(await ScriptedRecogniser().detector().probabilities(noise)) < 0.3


@settings(max_examples=30)
@given(st.integers(1, 5_000))
def test_probabilities_do_not_depend_on_chunking(samples: int) -> None:
    async def detect() -> None:
        pcm = synthesise("hello bird", Timing(lead_s=0.123))
        whole = await ScriptedRecogniser().detector().probabilities(pcm)
        detector = ScriptedRecogniser().detector()
        pieces = [await detector.probabilities(chunk) for chunk in chunks(pcm, samples)]
        assert [value for piece in pieces for value in piece] == whole
        assert len(whole) == len(pcm) // 640

    asyncio.run(detect())


async def test_a_second_of_audio_costs_well_under_ten_milliseconds() -> None:
    voice = await ScriptedRecogniser().open(CONFIG)
    pcm = synthesise(" ".join(VOCABULARY))
    began = time.process_time()
    for chunk in chunks(pcm, 1_600):
        await voice.feed(chunk)
    assert (time.process_time() - began) / (len(pcm) / 32_000) < 0.01
