"""A model in its process, as the engine uses it: batches, losses, refusals."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from perch.audio.tones import synthesise
from perch.core.audio import RATE, samples_to_bytes
from perch.core.speech import RecognitionConfig
from perch.engine.catalogue import Catalogue
from perch.engine.registration import state_of
from perch.engine.scheduler import Scheduler
from perch.errors import BadConfig, EngineFailed, EngineFull
from perch.inference.parakeet import process
from perch.inference.parakeet.model import LoadOptions
from perch.inference.parakeet.recogniser import ModelRecogniser

CONFIG = RecognitionConfig()
WORDS = ["zero one", "two", "three four zero"]


def options(**changes: Any) -> LoadOptions:
    return LoadOptions(**{"path": "nowhere", "name": "tones", "chunk_ms": 320, **changes})


@pytest.fixture
async def recogniser() -> AsyncIterator[ModelRecogniser]:
    started = await ModelRecogniser.start("tones", options(), slots=3, aliases=("beeps",))
    yield started
    await started.aclose()


def pcm(text: str) -> bytes:
    return synthesise([text])


async def recognise(recogniser: ModelRecogniser, text: str, cut: int) -> tuple[list[str], str]:
    """The partials and the final of an utterance fed in pieces of ``cut`` samples."""
    voice = await recogniser.open(CONFIG)
    audio = pcm(text)
    partials = []
    for start in range(0, len(audio), 2 * cut):
        told = await voice.feed(audio[start : start + 2 * cut])
        if told is not None:
            partials.append(told)
    final = await voice.finish()
    await voice.aclose()
    return partials, final.text


async def test_a_process_that_hangs_is_replaced_though_nobody_waits_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(process, "PING_EVERY", 0.1)
    monkeypatch.setattr(process, "HANG_DEADLINE", 0.5)
    recogniser = await ModelRecogniser.start("tones", options(), slots=1)
    try:
        hung = recogniser.pid
        os.kill(hung, signal.SIGSTOP)
        async with asyncio.timeout(30):
            assert "status -9" in await recogniser.wait_unhealthy()
            await recogniser.wait_healthy()
        assert recogniser.pid != hung
        assert (await recognise(recogniser, "two", 5120))[1] == "two"
    finally:
        await recogniser.aclose()


async def test_streams_side_by_side_are_recognised_apart(recogniser: ModelRecogniser) -> None:
    answers = await asyncio.gather(
        *(recognise(recogniser, text, cut) for text, cut in zip(WORDS, (160, 5120, 7001), strict=True))
    )
    assert [final for _, final in answers] == WORDS
    for partials, final in answers:
        assert all(final.startswith(partial) for partial in partials)
        assert partials


async def test_words_have_times_and_a_voice_goes_on_after_a_final(recogniser: ModelRecogniser) -> None:
    voice = await recogniser.open(CONFIG)
    for text in WORDS:
        await voice.feed(pcm(text))
        final = await voice.finish()
        assert [word.text for word in final.words] == text.split()
        assert all(0 <= word.start < word.end for word in final.words)
        assert final.confidence is not None
        assert final.confidence > 0.9
    assert (await voice.finish()).text == ""
    await voice.aclose()


async def test_a_step_is_answered_within_100_ms_where_the_model_costs_nothing(
    recogniser: ModelRecogniser,
) -> None:
    """004-41: what is left is the road to the model's process and back. Of most steps, as a test has neighbours."""
    voice = await recogniser.open(CONFIG)
    audio, piece = pcm("zero one two three four five six seven eight nine " * 6), samples_to_bytes(5120)
    took, said = [], 0
    for start in range(0, len(audio) - piece, piece):
        sent = time.perf_counter()
        said += await voice.feed(audio[start : start + piece]) is not None
        took.append(time.perf_counter() - sent)
    await voice.aclose()
    assert len(took) >= 30
    assert said >= len(took) // 4  # each piece was recognised, not only taken
    assert sorted(took)[len(took) // 4] < 0.1


@pytest.mark.parametrize("chunk_ms", [320, None])
async def test_the_process_is_woken_once_for_each_piece(
    chunk_ms: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    recogniser = await ModelRecogniser.start("tones", options(chunk_ms=chunk_ms), slots=1)
    sent: list[int] = []
    send = process._Line.send

    def count(line: process._Line, kind: bytes, key: int, body: bytes) -> None:
        sent.append(len(body))
        send(line, kind, key, body)

    try:
        monkeypatch.setattr(process._Line, "send", count)
        voice = await recogniser.open(CONFIG)
        audio = pcm("zero one two")
        for start in range(0, len(audio), 3_200):
            await voice.feed(audio[start : start + 3_200])
        assert (await voice.finish()).text == "zero one two"
        await voice.aclose()
    finally:
        await recogniser.aclose()
    pieces = len(audio) // 10_240 if chunk_ms else 0
    assert len(sent) == pieces + 1
    assert sum(sent) == len(audio)


async def test_silence_says_nothing(recogniser: ModelRecogniser) -> None:
    voice = await recogniser.open(CONFIG)
    assert not await voice.feed(bytes(4 * RATE))
    assert (await voice.finish()).text == ""
    await voice.aclose()


async def test_slots_are_counted_and_given_back(recogniser: ModelRecogniser) -> None:
    voices = [await recogniser.open(CONFIG) for _ in range(3)]
    with pytest.raises(EngineFull):
        await recogniser.open(CONFIG)
    await voices[0].feed(pcm("zero"))
    await voices[0].aclose()
    await voices[0].aclose()
    voices[0] = await recogniser.open(CONFIG)
    for voice in voices:
        await voice.aclose()


async def test_what_it_is_is_published(recogniser: ModelRecogniser) -> None:
    told = recogniser.capabilities
    assert (told.model, told.aliases, told.streaming_mode, told.slots) == (
        "tones",
        ("beeps",),
        "cache-aware",
        3,
    )
    assert told.partials
    assert told.parameters["chunk_ms"] == "320"
    assert told.parameters["backend"] == "tones"


async def test_a_killed_process_fails_its_voices_and_comes_back(recogniser: ModelRecogniser) -> None:
    voice = await recogniser.open(CONFIG)
    await voice.feed(pcm("zero"))
    os.kill(recogniser.pid, signal.SIGKILL)
    assert "ended unexpectedly" in await recogniser.wait_unhealthy()
    assert not recogniser.healthy
    with pytest.raises(EngineFailed):
        await voice.finish()
    await voice.aclose()
    async with asyncio.timeout(30):
        await recogniser.wait_healthy()
    assert await recognise(recogniser, "one", 1600) == (["one"], "one")


async def test_a_model_that_comes_back_with_fewer_slots_says_so(
    recogniser: ModelRecogniser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where something else has taken of the GPU's memory meanwhile."""
    start = process.ModelProcess.start

    async def start_with_less_memory(
        backend: str, chosen: LoadOptions, _: int | None
    ) -> process.ModelProcess:
        smaller = await start(backend, chosen, 1)
        smaller._loaded = replace(smaller._loaded, recordings=2)
        return smaller

    monkeypatch.setattr(process.ModelProcess, "start", start_with_less_memory)
    catalogue = Catalogue(recogniser, accept_any_model=False)
    assert catalogue.models()[0].slots == 3
    os.kill(recogniser.pid, signal.SIGKILL)
    await recogniser.wait_unhealthy()
    async with asyncio.timeout(30):
        await recogniser.wait_healthy()
    assert catalogue.models()[0].slots == 1
    assert recogniser.capabilities.recordings == recogniser._recordings._value == 2
    assert state_of(recogniser, Scheduler(recogniser, slots=3, timeout_s=1)).capacity == 1
    voice = await recogniser.open(CONFIG)
    with pytest.raises(EngineFull):
        await recogniser.open(CONFIG)
    await voice.aclose()


async def test_whole_utterances_have_no_partials() -> None:
    recogniser = await ModelRecogniser.start("tones", options(chunk_ms=None), slots=2)
    try:
        assert recogniser.capabilities.streaming_mode == "vad-segmented"
        assert not recogniser.capabilities.partials
        assert await recognise(recogniser, "zero one", 1600) == ([], "zero one")
    finally:
        await recogniser.aclose()


async def test_slots_are_measured_where_none_are_given() -> None:
    recogniser = await ModelRecogniser.start("tones", options())
    try:
        assert 1 <= recogniser.capabilities.slots <= 64
    finally:
        await recogniser.aclose()


async def test_a_folder_without_a_model_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises((BadConfig, EngineFailed), match=str(tmp_path)):
        await ModelRecogniser.start(
            "transformers", options(path=str(tmp_path), chunk_ms=None, allow_cpu=True)
        )


async def test_an_unknown_backend_is_refused_with_those_there_are() -> None:
    with pytest.raises(BadConfig, match="sherpa-onnx, transformers"):
        await ModelRecogniser.start("whisper", options())


@pytest.mark.parametrize("chunk_ms", [320, None])
async def test_utterances_of_recordings_are_recognised_beside_the_streams(chunk_ms: int | None) -> None:
    recogniser = await ModelRecogniser.start("tones", options(chunk_ms=chunk_ms), slots=1)
    try:
        assert recogniser.capabilities.recordings >= 2
        voice = await recogniser.open(CONFIG)  # takes the only slot
        live = pcm("five six")
        await voice.feed(live[: len(live) // 2])
        recorded = await asyncio.gather(*(recogniser.recognise(pcm(text)) for text in WORDS * 5))
        assert [recognition.text for recognition in recorded] == WORDS * 5
        assert all(word.end > word.start for word in recorded[0].words)
        await voice.feed(live[len(live) // 2 :])
        assert (await voice.finish()).text == "five six"
        await voice.aclose()
    finally:
        await recogniser.aclose()


async def test_a_recording_that_is_given_up_leaves_room_for_the_next(recogniser: ModelRecogniser) -> None:
    waiting = [asyncio.create_task(recogniser.recognise(pcm("zero"))) for _ in range(20)]
    await asyncio.sleep(0)
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)
    assert (await recogniser.recognise(pcm("nine"))).text == "nine"
