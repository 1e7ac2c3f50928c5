"""What the embedded recogniser hears, and that its callers are strangers to each other.

One recogniser serves all tests of this file, as it would serve callers.
"""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from inference.corpus import clips, needs_speech
from inference.road import say, transcribe, transcribe_with
from inference.sounds import noise, pink_noise
from perch.core.speech import RecognitionConfig
from perch.inference.embedded import EmbeddedRecogniser
from perch.inference.recogniser import Recogniser, Recognition

pytestmark = pytest.mark.asyncio(loop_scope="module")

ANY = RecognitionConfig()
FINALS_ONLY = RecognitionConfig(interim_results=False)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def recogniser() -> AsyncIterator[EmbeddedRecogniser]:
    loaded = await EmbeddedRecogniser.start(slots=4)
    _: Recogniser = loaded  # the type checker's test that it is one
    yield loaded
    assert loaded.healthy
    await loaded.aclose()


async def test_it_says_what_it_is_and_what_to_use_for_real_work(recogniser: EmbeddedRecogniser) -> None:
    described = recogniser.capabilities
    assert described.model == "embedded-en-us"
    assert described.languages == ("en-US",)
    assert described.slots == 4
    assert (described.streaming_mode, described.partials) == ("vad-segmented", True)
    assert "Demonstration" in described.notice
    assert "RIVA_HOST" in described.notice
    pull, engine = "models pull parakeet-tdt-0.6b-v2", "engine --model parakeet-tdt-0.6b-v2"
    assert f"`perch {pull}`" in described.notice
    assert f"`perch {engine}`" in described.notice, "a pull alone changes nothing for an engine by itself"


@needs_speech
@pytest.mark.golden
async def test_clear_speech_is_recognised_word_by_word(recogniser: EmbeddedRecogniser) -> None:
    heard = await transcribe(recogniser, clips()["ps_goforward.wav"].pcm)
    assert heard.text == "go forward ten meters"
    assert heard.partials
    assert heard.partials[0].startswith("go")


@needs_speech
async def test_words_lie_in_order_inside_the_utterance_with_real_posteriors(
    recogniser: EmbeddedRecogniser,
) -> None:
    pcm = clips()["vctk_p286_011.wav"].pcm
    voice = await recogniser.open(FINALS_ONLY)
    final = await say(voice, pcm)
    await voice.aclose()
    assert " ".join(word.text for word in final.words) == final.text
    edges = [edge for word in final.words for edge in (word.start, word.end)]
    assert edges == sorted(edges)
    assert edges[0] > 0
    assert edges[-1] <= len(pcm) // 2
    confidences = [word.confidence for word in final.words if word.confidence is not None]
    assert len(confidences) == len(final.words)
    assert all(0 <= confidence <= 1 for confidence in confidences)
    assert len(set(confidences)) > 3
    assert final.confidence == pytest.approx(sum(confidences) / len(confidences))


@needs_speech
async def test_no_decoder_marker_reaches_the_text(recogniser: EmbeddedRecogniser) -> None:
    heard = await transcribe(recogniser, clips()["jfk.wav"].pcm)
    for text in [heard.text, *heard.partials]:
        assert not set(text) & set("()<>[]0123456789")


@pytest.mark.parametrize(
    "pcm",
    [bytes(60 * 32_000), noise(60, 2), noise(15, 2000), pink_noise(15, 2000)],
    ids=["a minute of zeros", "a minute of faint noise", "white noise", "pink noise"],
)
async def test_without_speech_there_are_no_words(recogniser: EmbeddedRecogniser, pcm: bytes) -> None:
    heard = await transcribe(recogniser, pcm)
    assert heard.text == ""
    assert heard.partials == []


@pytest.mark.parametrize(
    "pcm",
    [b"", bytes(2), bytes(320), bytes(32_001), bytes(160_000), noise(3, 5), noise(3, 2000)],
    ids=["nothing", "a sample", "10 ms", "odd", "zeros", "faint noise", "white noise"],
)
async def test_an_utterance_without_speech_is_empty_and_harmless(
    recogniser: EmbeddedRecogniser, pcm: bytes
) -> None:
    voice = await recogniser.open(ANY)
    assert await say(voice, pcm) == Recognition("")
    assert await say(voice, pcm) == Recognition("")
    await voice.aclose()


@needs_speech
async def test_one_callers_audio_never_shapes_anothers_text(recogniser: EmbeddedRecogniser) -> None:
    cards, noisy = clips()["ps_cards_005.wav"].pcm, clips()["jfk.wav"].pcm
    alone = await transcribe(recogniser, cards)
    await transcribe(recogniser, noisy)
    assert await transcribe(recogniser, cards) == alone


@needs_speech
async def test_voices_speaking_at_the_same_time_do_not_disturb_each_other(
    recogniser: EmbeddedRecogniser,
) -> None:
    cards, lamp = clips()["ps_cards_005.wav"].pcm, clips()["wyoming_lamp.wav"].pcm
    alone = [await transcribe(recogniser, pcm) for pcm in (cards, lamp)]
    together = await asyncio.gather(*(transcribe(recogniser, pcm) for pcm in (cards, lamp, cards)))
    assert together == [alone[0], alone[1], alone[0]]


@needs_speech
async def test_a_callers_second_utterance_has_the_same_final_as_its_first(
    recogniser: EmbeddedRecogniser,
) -> None:
    voice = await recogniser.open(ANY)
    cards = clips()["ps_cards_005.wav"].pcm
    first = await transcribe_with(voice, recogniser, cards)
    await transcribe_with(voice, recogniser, clips()["riva_sample.wav"].pcm)
    assert (await transcribe_with(voice, recogniser, cards)).finals == first.finals
    await voice.aclose()


@needs_speech
async def test_a_caller_who_wants_only_finals_gets_the_same_finals(recogniser: EmbeddedRecogniser) -> None:
    pcm = clips()["ps_goforward.wav"].pcm
    finals = []
    for config in (ANY, FINALS_ONLY):
        voice = await recogniser.open(config)
        heard = await transcribe_with(voice, recogniser, pcm)
        assert bool(heard.partials) is config.interim_results
        finals.append(heard.finals)
        await voice.aclose()
    assert finals[0] == finals[1]
