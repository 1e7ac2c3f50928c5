"""Silero through the shared session: what it finds, and that streams cannot disturb each other."""

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import perch.inference.vad
from inference.corpus import clips, needs_speech
from inference.sounds import noise
from perch.errors import EngineFailed
from perch.inference.vad import COMPANY, FRAME, SileroDetector, SileroVad


@pytest.fixture
async def vad() -> AsyncIterator[SileroVad]:
    shared = SileroVad.load()
    yield shared
    await shared.aclose()


async def judge(detector: SileroDetector, pcm: bytes, chunk: int) -> list[float]:
    found: list[float] = []
    for at in range(0, len(pcm), chunk):
        found += await detector.probabilities(pcm[at : at + chunk])
    return found


async def test_a_probability_comes_for_each_completed_frame_and_no_other(vad: SileroVad) -> None:
    detector = vad.detector()
    assert len(await detector.probabilities(bytes(FRAME * 2 - 1))) == 0
    assert len(await detector.probabilities(bytes(1))) == 1
    assert len(await detector.probabilities(bytes(FRAME * 2 * 3 + 10))) == 3
    assert len(await detector.probabilities(b"")) == 0


@pytest.mark.parametrize(
    "pcm", [bytes(320_000), noise(10, 3), noise(10, 3000)], ids=["zero", "faint", "white"]
)
async def test_silence_and_noise_are_not_speech(vad: SileroVad, pcm: bytes) -> None:
    assert np.mean(np.array(await vad.detector().probabilities(pcm)) > 0.5) < 0.02


@needs_speech
async def test_speech_is_found_between_the_pauses_around_it(vad: SileroVad) -> None:
    clip = clips()["arctic_a0007.wav"]
    found = np.array(await vad.detector().probabilities(bytes(32_000) + clip.pcm + bytes(32_000)))
    assert found[: 14_000 // FRAME].max() < 0.3
    assert np.mean(found[25_000 // FRAME : (16_000 + 55_000) // FRAME] > 0.5) > 0.8


@needs_speech
async def test_the_division_of_the_stream_does_not_matter(vad: SileroVad) -> None:
    pcm = clips()["ps_cards_005.wav"].pcm
    whole = await judge(vad.detector(), pcm, len(pcm))
    assert np.allclose(await judge(vad.detector(), pcm, 777), whole, atol=1e-4)


@needs_speech
async def test_streams_judged_in_one_batch_get_what_each_gets_alone(vad: SileroVad) -> None:
    streams = [clip.pcm[: 64_000 + 3000 * index] for index, clip in enumerate(clips().values())]
    alone = [await judge(vad.detector(), pcm, 3200) for pcm in streams]
    together = await asyncio.gather(*(judge(vad.detector(), pcm, 3200) for pcm in streams))
    for one, other in zip(alone, together, strict=True):
        assert np.allclose(one, other, atol=1e-3)


class SlowSession:
    """In the network's place: holds each batch until told, and notes its size and thread."""

    def __init__(self) -> None:
        self.go = threading.Semaphore(0)
        self.begun = threading.Semaphore(0)
        self.batches: list[int] = []
        self.threads: set[str] = set()

    def run(self, outputs: None, inputs: dict[str, npt.NDArray[Any]]) -> list[npt.NDArray[np.float32]]:
        self.begun.release()
        assert self.go.acquire(timeout=30)
        batch = len(inputs["input"])
        self.batches.append(batch)
        self.threads.add(threading.current_thread().name)
        return [np.zeros((batch, 1), np.float32), np.zeros((2, batch, 128), np.float32)]


async def test_streams_that_wait_during_one_batch_form_the_next() -> None:
    session = SlowSession()
    vad = SileroVad(session)
    calls = [asyncio.create_task(vad.detector().probabilities(bytes(FRAME * 2))) for _ in range(5)]
    assert await asyncio.to_thread(session.begun.acquire, timeout=30)
    calls += [asyncio.create_task(vad.detector().probabilities(bytes(FRAME * 2))) for _ in range(3)]
    session.go.release(9)
    await asyncio.gather(*calls)
    assert session.batches == [5, 3]
    assert threading.current_thread().name not in session.threads
    await vad.aclose()


async def test_where_many_speak_they_wait_for_each_other_and_faster_audio_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(perch.inference.vad, "EVERY", 3600.0)
    session = SlowSession()
    session.go.release(9)
    vad = SileroVad(session)
    many, other = [vad.detector() for _ in range(COMPANY)], vad.detector()
    for _ in range(2):
        await other.probabilities(bytes(FRAME * 2))
    await asyncio.gather(*(one.probabilities(bytes(FRAME * 2)) for one in many))
    waits = asyncio.create_task(vad.detector().probabilities(bytes(FRAME * 2)))
    done, _ = await asyncio.wait({waits}, timeout=0.05)
    assert not done
    # A frame lasts longer than it has been: this is no speech as it is spoken.
    await many[0].probabilities(bytes(FRAME * 2))
    await waits
    assert session.batches == [1, 1, COMPANY, 2]
    await vad.aclose()


async def test_threads_judge_side_by_side() -> None:
    session = SlowSession()
    vad = SileroVad(session, threads=2)
    first = asyncio.create_task(vad.detector().probabilities(bytes(FRAME * 2)))
    assert await asyncio.to_thread(session.begun.acquire, timeout=30)
    second = asyncio.create_task(vad.detector().probabilities(bytes(FRAME * 2)))
    assert await asyncio.to_thread(session.begun.acquire, timeout=30), "the first is still being judged"
    third = asyncio.create_task(vad.detector().probabilities(bytes(FRAME * 2)))
    session.go.release(3)
    for judged in await asyncio.gather(first, second, third):
        assert judged == [0.0]
    assert len(session.threads) == 2
    await vad.aclose()


async def test_who_waits_when_it_is_closed_is_told() -> None:
    session = SlowSession()
    vad = SileroVad(session)
    judged = asyncio.create_task(vad.detector().probabilities(bytes(FRAME * 2)))
    assert await asyncio.to_thread(session.begun.acquire, timeout=30)
    waits = asyncio.create_task(vad.detector().probabilities(bytes(FRAME * 2)))
    await asyncio.sleep(0)
    session.go.release()
    await vad.aclose()
    assert await judged == [0.0]
    with pytest.raises(EngineFailed):
        await waits


async def test_a_caller_who_leaves_does_not_disturb_the_others() -> None:
    session = SlowSession()
    vad = SileroVad(session)
    leaver = asyncio.create_task(vad.detector().probabilities(bytes(FRAME * 2)))
    stayer = asyncio.create_task(vad.detector().probabilities(bytes(FRAME * 2)))
    await asyncio.sleep(0)
    leaver.cancel()
    session.go.release(5)
    assert await stayer == [0.0]
    await vad.aclose()


class BrokenSession:
    def run(self, outputs: None, inputs: dict[str, npt.NDArray[Any]]) -> list[npt.NDArray[np.float32]]:
        raise RuntimeError("no such kernel")


async def test_a_failing_network_fails_the_stream_and_says_nothing_of_its_insides() -> None:
    vad = SileroVad(BrokenSession())
    with pytest.raises(EngineFailed, match=r"^The speech detector failed\.$"):
        await vad.detector().probabilities(bytes(FRAME * 2))
    await vad.aclose()


async def test_closing_ends_the_thread_and_refuses_further_frames() -> None:
    before = threading.active_count()
    vad = SileroVad.load()
    detector = vad.detector()
    await detector.probabilities(bytes(FRAME * 2))
    await vad.aclose()
    await vad.aclose()
    assert threading.active_count() == before
    with pytest.raises(EngineFailed):
        await detector.probabilities(bytes(FRAME * 2))
