"""Slots: counted exactly, given back whatever happens."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from perch.core.speech import RecognitionConfig
from perch.engine.scheduler import Scheduler
from perch.errors import EngineFailed, EngineFull
from perch.inference.scripted import CAPABILITIES, ScriptedRecogniser, ScriptedVoice

CONFIG = RecognitionConfig()


def scheduler(slots: int = 2, recogniser: Any = None) -> Scheduler:
    return Scheduler(recogniser or ScriptedRecogniser(), slots=slots, timeout_s=0.2)


async def test_one_more_than_the_slots_is_refused_until_one_is_free() -> None:
    slots = scheduler(2)
    async with slots.lease(CONFIG):
        async with slots.lease(CONFIG):
            assert slots.taken == 2
            with pytest.raises(EngineFull, match="All 2 streams") as refused:
                async with slots.lease(CONFIG):
                    pass
            assert refused.value.retry_after == 1.0
        async with slots.lease(CONFIG):
            assert slots.taken == 2
    assert slots.taken == 0


async def test_a_recogniser_that_refuses_costs_no_slot() -> None:
    slots = scheduler(5, ScriptedRecogniser(replace(CAPABILITIES, slots=0)))
    with pytest.raises(EngineFull):
        async with slots.lease(CONFIG):
            pass
    assert slots.taken == 0


async def test_a_failure_inside_gives_the_slot_and_the_voice_back() -> None:
    recogniser = ScriptedRecogniser()
    slots = scheduler(2, recogniser)
    with pytest.raises(EngineFailed):
        async with slots.lease(CONFIG):
            raise EngineFailed("broken")
    assert (slots.taken, recogniser.open_voices) == (0, 0)


class SlowToClose(ScriptedVoice):
    """Closes once ``allowed`` is set."""

    allowed: asyncio.Event

    async def aclose(self) -> None:
        await self.allowed.wait()
        await super().aclose()


class SlowRecogniser(ScriptedRecogniser):
    """Opens when ``may_open`` is set; its voices close when ``may_close`` is."""

    def __init__(self) -> None:
        super().__init__()
        self.may_open = asyncio.Event()
        self.may_close = asyncio.Event()

    async def open(self, config: RecognitionConfig) -> ScriptedVoice:
        await self.may_open.wait()
        voice = SlowToClose(self)
        voice.allowed = self.may_close
        return voice


async def test_a_slot_is_taken_until_its_voice_is_really_closed_even_if_cancelled_twice() -> None:
    recogniser = SlowRecogniser()
    recogniser.may_open.set()
    slots = scheduler(1, recogniser)
    leased = asyncio.Event()

    async def stream() -> None:
        async with slots.lease(CONFIG):
            leased.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(stream())
    await leased.wait()
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert slots.taken == 1
    recogniser.may_close.set()
    await slots.aclose()
    assert slots.taken == 0


async def test_a_caller_cancelled_while_its_voice_opens_leaves_no_slot_behind() -> None:
    slots = scheduler(1, SlowRecogniser())

    async def stream() -> None:
        async with slots.lease(CONFIG):
            pass

    task = asyncio.create_task(stream())
    await asyncio.sleep(0)
    assert slots.taken == 1
    task.cancel()
    await asyncio.wait([task])
    assert slots.taken == 0


async def test_a_recogniser_that_never_opens_fails_within_the_deadline() -> None:
    slots = scheduler(1, SlowRecogniser())
    with pytest.raises(EngineFailed, match=r"0\.2 s"):
        async with slots.lease(CONFIG):
            pass
    assert slots.taken == 0


async def test_a_voice_that_never_closes_does_not_keep_its_slot() -> None:
    recogniser = SlowRecogniser()
    recogniser.may_open.set()
    slots = scheduler(1, recogniser)
    async with slots.lease(CONFIG):
        pass
    assert slots.taken == 0
