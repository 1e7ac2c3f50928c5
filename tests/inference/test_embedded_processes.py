"""The embedded recogniser's processes: slots, deadlines, deaths, and that nothing is left behind."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable

import psutil
import pytest

from inference.road import say
from inference.sounds import noise
from perch.core.speech import RecognitionConfig
from perch.errors import EngineFailed, EngineFull
from perch.inference import embedded, worker_pool
from perch.inference.embedded import EmbeddedRecogniser
from perch.inference.recogniser import Recognition

ANY = RecognitionConfig()
FINALS_ONLY = RecognitionConfig(interim_results=False)


@pytest.fixture
async def recogniser() -> AsyncIterator[EmbeddedRecogniser]:
    loaded = await EmbeddedRecogniser.start(slots=4)
    yield loaded
    await loaded.aclose()


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
    await eventually(lambda: gone(voice.pid), within=30)
    with pytest.raises(EngineFailed):
        await voice.feed(bytes(3200))
    assert recogniser.healthy


async def test_closing_a_voice_that_is_decoding_ends_its_worker_at_once(
    recogniser: EmbeddedRecogniser,
) -> None:
    left_alone, voice = await recogniser.open(FINALS_ONLY), await recogniser.open(FINALS_ONLY)
    began = time.monotonic()
    await say(left_alone, noise(20, 2000))
    takes = time.monotonic() - began
    await voice.feed(noise(20, 2000))
    finishing = asyncio.create_task(voice.finish())
    await asyncio.sleep(0.05)
    await voice.aclose()
    with pytest.raises(EngineFailed):
        await finishing
    await eventually(lambda: gone(voice.pid), within=takes / 2)
    await left_alone.aclose()
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
        async with asyncio.timeout(30):
            await finishing
    assert not recogniser.healthy
    assert "worker" in await reason
    assert await eventually(lambda: recogniser.healthy, within=30) > 0.8
    assert await say(bystander, noise(1, 2000)) == Recognition("")
    with pytest.raises(EngineFailed):
        await victim.feed(bytes(3200))
    await victim.aclose()
    await bystander.aclose()


async def test_an_idle_workers_death_is_noticed_without_asking_it(recogniser: EmbeddedRecogniser) -> None:
    voice = await recogniser.open(ANY)
    os.kill(voice.pid, signal.SIGKILL)
    async with asyncio.timeout(30):
        await recogniser.wait_unhealthy()
    assert not recogniser.healthy
    await voice.aclose()


async def test_a_killed_zygote_fails_all_voices_and_is_replaced(recogniser: EmbeddedRecogniser) -> None:
    voices = [await recogniser.open(ANY) for _ in range(3)]
    dead = recogniser.pid
    finishing = asyncio.create_task(say(voices[0], noise(10, 2000)))
    await asyncio.sleep(0.05)
    os.kill(dead, signal.SIGKILL)
    async with asyncio.timeout(30):
        assert await recogniser.wait_unhealthy()
        with pytest.raises(EngineFailed):
            await finishing
        await eventually(lambda: all(gone(voice.pid) for voice in voices), within=30)
        for voice in voices:
            with pytest.raises(EngineFailed):
                await voice.feed(bytes(3200))
    with pytest.raises(EngineFailed):
        await recogniser.open(ANY)
    assert await eventually(lambda: recogniser.healthy, within=30) > 0.8
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
    async with asyncio.timeout(30):
        with pytest.raises(EngineFailed, match="did not answer"):
            await voice.finish()
    assert not recogniser.healthy
    await voice.aclose()
    await eventually(lambda: gone(voice.pid), within=30)


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
        await eventually(lambda: gone(hung), within=30)
    await eventually(lambda: recogniser.healthy, within=30)
    voice = await recogniser.open(ANY)
    assert await say(voice, noise(1, 2000)) == Recognition("")
    await voice.aclose()


async def test_closing_the_recogniser_fails_open_voices_and_leaves_nothing_behind() -> None:
    process = psutil.Process()
    others = set(process.children(recursive=True))  # of other tests' fixtures
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
    family = set(process.children(recursive=True)) - others
    await recogniser.aclose()
    await recogniser.aclose()
    with pytest.raises(EngineFailed):
        await unclosed.feed(bytes(3200))
    with pytest.raises(EngineFailed):
        await recogniser.open(ANY)
    await unclosed.aclose()
    await eventually(lambda: all(gone(member.pid) for member in family), within=30)
    await eventually(lambda: process.num_threads() <= threads, within=30)
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

RUN
"""


@pytest.mark.parametrize("run", ["asyncio.run(main())", "import uvloop; uvloop.run(main())"])
async def test_nothing_outlives_an_engine_that_is_killed(run: str) -> None:
    engine = await asyncio.create_subprocess_exec(
        sys.executable, "-c", ENGINE.replace("RUN", run), stdout=asyncio.subprocess.PIPE
    )
    assert engine.stdout is not None
    family = [int(pid) for pid in (await engine.stdout.readline()).split()]
    assert len(family) == 3
    assert all(psutil.pid_exists(pid) for pid in family)
    engine.kill()
    await engine.wait()
    await eventually(lambda: all(gone(pid) for pid in family), within=30)
