"""The embedded recogniser with its real processes: what it hears, and what it does when they die."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable

import numpy as np
import psutil
import pytest

from inference.corpus import clips, needs_speech
from inference.road import transcribe, transcribe_with
from perch.core.speech import RecognitionConfig
from perch.errors import EngineFailed, EngineFull
from perch.inference import embedded, worker_pool
from perch.inference.embedded import EmbeddedRecogniser, EmbeddedVoice
from perch.inference.recogniser import Recogniser, Recognition

ANY = RecognitionConfig()
FINALS_ONLY = RecognitionConfig(interim_results=False)


@pytest.fixture
async def recogniser() -> AsyncIterator[EmbeddedRecogniser]:
    loaded = await EmbeddedRecogniser.start(slots=4)
    _: Recogniser = loaded  # the type checker's test that it is one
    yield loaded
    await loaded.aclose()


def noise(seconds: float, level: float) -> bytes:
    return _pcm(np.random.default_rng(7).normal(0, level, round(seconds * 16_000)))


def pink_noise(seconds: float, level: float) -> bytes:
    spectrum = np.fft.rfft(np.random.default_rng(7).normal(0, 1, round(seconds * 16_000)))
    spectrum[1:] /= np.sqrt(np.arange(1, len(spectrum)))
    samples = np.fft.irfft(spectrum)
    return _pcm(samples / samples.std() * level)


def _pcm(samples: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> bytes:
    return np.clip(samples, -32768, 32767).astype("<i2").tobytes()


async def say(voice: EmbeddedVoice, pcm: bytes) -> Recognition:
    """A whole utterance at once."""
    await voice.feed(pcm)
    return await voice.finish()


async def eventually(holds: Callable[[], bool], within: float) -> float:
    """Wait until ``holds``; return after how many seconds it did."""
    began = time.monotonic()
    async with asyncio.timeout(within):
        while not holds():  # noqa: ASYNC110 a process table sends no events
            await asyncio.sleep(0.02)
    return time.monotonic() - began


def gone(pid: int) -> bool:
    """Ended, even if nobody has collected its status yet: an orphan's new parent may take its time."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


async def test_it_says_what_it_is_and_what_to_use_for_real_work(recogniser: EmbeddedRecogniser) -> None:
    described = recogniser.capabilities
    assert described.model == "embedded-en-us"
    assert described.languages == ("en-US",)
    assert described.slots == 4
    assert "Demonstration" in described.notice
    assert "RIVA_HOST" in described.notice


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


async def test_one_voice_more_than_there_are_slots_is_refused(recogniser: EmbeddedRecogniser) -> None:
    voices = [await recogniser.open(ANY) for _ in range(4)]
    with pytest.raises(EngineFull):
        await recogniser.open(ANY)
    await voices[0].aclose()
    await voices[0].aclose()
    voices[0] = await recogniser.open(ANY)
    with pytest.raises(EngineFull):
        await recogniser.open(ANY)
    for voice in voices:
        await voice.aclose()


async def test_a_closed_voice_refuses_and_its_worker_is_gone(recogniser: EmbeddedRecogniser) -> None:
    voice = await recogniser.open(ANY)
    await voice.aclose()
    await eventually(lambda: gone(voice.pid), within=2)
    with pytest.raises(EngineFailed):
        await voice.feed(bytes(3200))
    assert recogniser.healthy


async def test_closing_a_voice_that_is_decoding_ends_its_worker_at_once(
    recogniser: EmbeddedRecogniser,
) -> None:
    voice = await recogniser.open(FINALS_ONLY)
    await voice.feed(noise(20, 2000))
    finishing = asyncio.create_task(voice.finish())
    await asyncio.sleep(0.05)
    await voice.aclose()
    with pytest.raises(EngineFailed):
        await finishing
    assert await eventually(lambda: gone(voice.pid), within=2) < 0.5
    assert recogniser.healthy


async def test_a_cancelled_request_makes_the_voice_unusable_rather_than_confused(
    recogniser: EmbeddedRecogniser,
) -> None:
    voice = await recogniser.open(FINALS_ONLY)
    await voice.feed(noise(2, 2000))
    finishing = asyncio.create_task(voice.finish())
    await asyncio.sleep(0.01)
    finishing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await finishing
    with pytest.raises(EngineFailed):
        await voice.finish()
    await voice.aclose()
    assert recogniser.healthy


async def test_an_endless_utterance_is_refused(recogniser: EmbeddedRecogniser) -> None:
    voice = await recogniser.open(FINALS_ONLY)
    await voice.feed(bytes(60 * 32_000))
    with pytest.raises(EngineFailed, match="60 seconds"):
        await voice.feed(bytes(3200))
    await voice.aclose()


async def test_a_killed_worker_fails_its_voice_and_turns_health_for_a_second(
    recogniser: EmbeddedRecogniser,
) -> None:
    victim, bystander = await recogniser.open(ANY), await recogniser.open(ANY)
    reason = asyncio.create_task(recogniser.wait_unhealthy())
    await victim.feed(noise(3, 2000))
    finishing = asyncio.create_task(victim.finish())
    await asyncio.sleep(0)
    os.kill(victim.pid, signal.SIGKILL)
    with pytest.raises(EngineFailed):
        async with asyncio.timeout(1):
            await finishing
    assert not recogniser.healthy
    assert "worker" in await reason
    assert 0.8 < await eventually(lambda: recogniser.healthy, within=5) < 3
    assert await say(bystander, noise(1, 2000)) == Recognition("")
    with pytest.raises(EngineFailed):
        await victim.feed(bytes(3200))
    await victim.aclose()
    await bystander.aclose()


async def test_an_idle_workers_death_is_noticed_without_asking_it(recogniser: EmbeddedRecogniser) -> None:
    voice = await recogniser.open(ANY)
    os.kill(voice.pid, signal.SIGKILL)
    async with asyncio.timeout(1):
        await recogniser.wait_unhealthy()
    assert not recogniser.healthy
    await voice.aclose()


async def test_a_killed_zygote_fails_all_voices_and_is_replaced(recogniser: EmbeddedRecogniser) -> None:
    voices = [await recogniser.open(ANY) for _ in range(3)]
    dead = recogniser.pid
    finishing = asyncio.create_task(say(voices[0], noise(10, 2000)))
    await asyncio.sleep(0.05)
    os.kill(dead, signal.SIGKILL)
    async with asyncio.timeout(1):
        assert await recogniser.wait_unhealthy()
        with pytest.raises(EngineFailed):
            await finishing
        await eventually(lambda: all(gone(voice.pid) for voice in voices), within=1)
        for voice in voices:
            with pytest.raises(EngineFailed):
                await voice.feed(bytes(3200))
    with pytest.raises(EngineFailed):
        await recogniser.open(ANY)
    assert await eventually(lambda: recogniser.healthy, within=20) > 0.8
    assert recogniser.pid != dead
    for voice in voices:
        await voice.aclose()
    again = [await recogniser.open(ANY) for _ in range(4)]
    assert await say(again[0], noise(1, 2000)) == Recognition("")
    for voice in again:
        await voice.aclose()


async def test_a_worker_that_hangs_fails_its_voice_at_the_deadline(
    recogniser: EmbeddedRecogniser, monkeypatch: pytest.MonkeyPatch
) -> None:
    voice = await recogniser.open(ANY)
    monkeypatch.setattr(embedded, "REQUEST_DEADLINE", 0.2)
    os.kill(voice.pid, signal.SIGSTOP)
    async with asyncio.timeout(5):
        with pytest.raises(EngineFailed, match="did not answer"):
            await voice.finish()
    assert not recogniser.healthy
    await voice.aclose()
    await eventually(lambda: gone(voice.pid), within=2)


async def test_a_zygote_that_hangs_is_replaced(
    recogniser: EmbeddedRecogniser, monkeypatch: pytest.MonkeyPatch
) -> None:
    hung = recogniser.pid
    os.kill(hung, signal.SIGSTOP)
    with monkeypatch.context() as patched:
        patched.setattr(worker_pool, "FORK_DEADLINE", 0.3)
        with pytest.raises(EngineFailed):
            await recogniser.open(ANY)
        assert not recogniser.healthy
        await eventually(lambda: gone(hung), within=10)
    await eventually(lambda: recogniser.healthy, within=20)
    voice = await recogniser.open(ANY)
    assert await say(voice, noise(1, 2000)) == Recognition("")
    await voice.aclose()


async def test_closing_the_recogniser_fails_open_voices_and_leaves_nothing_behind() -> None:
    process = psutil.Process()
    warm = await EmbeddedRecogniser.start(slots=2)  # what a first use opens for good is not a leak
    await warm.aclose()
    files, threads = process.num_fds(), process.num_threads()
    recogniser = await EmbeddedRecogniser.start(slots=3)
    for _ in range(10):
        voice = await recogniser.open(ANY)
        await voice.aclose()
    voice = await recogniser.open(ANY)
    os.kill(voice.pid, signal.SIGKILL)
    await recogniser.wait_unhealthy()
    unclosed = await recogniser.open(ANY)
    await recogniser.detector().probabilities(bytes(1024))
    family = process.children(recursive=True)
    await recogniser.aclose()
    await recogniser.aclose()
    with pytest.raises(EngineFailed):
        await unclosed.feed(bytes(3200))
    with pytest.raises(EngineFailed):
        await recogniser.open(ANY)
    await unclosed.aclose()
    await eventually(lambda: all(gone(member.pid) for member in family), within=2)
    await eventually(lambda: process.num_threads() <= threads, within=2)
    await asyncio.sleep(0)
    assert process.num_fds() == files


ENGINE = """
import asyncio
from perch.core.speech import RecognitionConfig
from perch.inference import embedded, worker_pool
from perch.inference.embedded import EmbeddedRecogniser

async def main():
    recogniser = await EmbeddedRecogniser.start(slots=2)
    voices = [await recogniser.open(RecognitionConfig()) for _ in range(2)]
    print(recogniser.pid, *(voice.pid for voice in voices), flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_nothing_outlives_an_engine_that_is_killed() -> None:
    engine = await asyncio.create_subprocess_exec(
        sys.executable, "-c", ENGINE, stdout=asyncio.subprocess.PIPE
    )
    assert engine.stdout is not None
    family = [int(pid) for pid in (await engine.stdout.readline()).split()]
    assert len(family) == 3
    assert all(psutil.pid_exists(pid) for pid in family)
    engine.kill()
    await engine.wait()
    await eventually(lambda: all(gone(pid) for pid in family), within=3)
