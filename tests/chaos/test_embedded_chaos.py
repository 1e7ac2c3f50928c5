"""Real speech, a recogniser that knows real speech, and an engine that is killed in the middle of a word."""

import asyncio
import random
from contextlib import suppress
from itertools import pairwise

import jiwer
import pytest

from chaos.engine_process import EngineProcess, engine_process
from chaos.leaks import at_rest
from chaos.talking import Said, talk, words
from gateways import Gateway, Heard, gateway
from perch.asr.pool import PoolConfig
from perch.asr.riva_client import RivaASRClient, RivaConfig
from perch.core.audio import RATE, samples_to_bytes
from perch.core.messages import Backend
from speech import Clip, clips, normalised

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]

OVERLAP_S = 0.05
PAUSE = bytes(samples_to_bytes(RATE))


async def hear(at: Gateway, clip: Clip) -> Heard:
    return await talk(at, clip.pcm + PAUSE, deadline_s=120.0)


async def kill_the_busy_one(client: RivaASRClient, engines: list[EngineProcess], after_s: float) -> None:
    await asyncio.sleep(after_s)
    [busy] = [e for e in engines for p in client.pool.endpoints if p.address == e.address and p.active]
    await busy.kill()
    await busy.start()


@pytest.mark.parametrize("clip", clips(), ids=lambda clip: clip.path.stem)
@pytest.mark.parametrize("seed", range(2))
async def test_no_word_is_lost_or_repeated_where_one_engine_took_over_from_another(
    clip: Clip, seed: int
) -> None:
    dice = random.Random(seed)
    async with engine_process("embedded") as first, engine_process("embedded") as second:
        config = RivaConfig(
            endpoints=(first.address, second.address),
            backend=Backend("riva"),
            pool=PoolConfig(reset_timeout_s=1.0),
        )
        client = RivaASRClient(config)
        async with gateway(client) as at:
            expected = await hear(at, clip)
            moment = dice.uniform(0.3, 0.9) * len(clip.pcm) / samples_to_bytes(RATE)
            killing = asyncio.create_task(kill_the_busy_one(client, [first, second], moment))
            try:
                heard = await hear(at, clip)
                await killing
            finally:
                killing.cancel()
                with suppress(asyncio.CancelledError):
                    await killing
            await at_rest(at, client.pool)
    assert heard.error is None
    assert [notice["code"] for notice in heard.of("notice")].count("engine_failover") == 1
    assert not unmatched(expected.text, heard.text)
    assert uncovered(words(expected), words(heard)) == [], "lost"
    assert uncovered(words(heard), words(expected)) == [], "said of audio in which nothing was said"
    assert overlapping(words(heard)) == [], "said twice"


def unmatched(expected: str, heard: str) -> list[jiwer.AlignmentChunk]:
    """Words too many or too few between words that are right.

    Beside a wrong word they are no loss: the same sound was taken for "nintendo" once, for "can do" the next time.
    """
    [chunks] = jiwer.process_words(normalised(expected), normalised(heard)).alignments
    kinds = ["equal", *(chunk.type for chunk in chunks), "equal"]
    return [
        chunk
        for chunk, before, after in zip(chunks, kinds, kinds[2:], strict=False)
        if chunk.type in {"insert", "delete"} and before == after == "equal"
    ]


def uncovered(spoken: Said, by: Said) -> list[tuple[str, float, float]]:
    """Words of ``spoken`` in whose time ``by`` has no word, or next to none."""
    return [
        (word, start, end)
        for word, start, end in spoken
        if sum(max(0.0, min(end, until) - max(start, since)) for _, since, until in by) < 0.3 * (end - start)
    ]


def overlapping(spoken: Said) -> list[tuple[str, str]]:
    return [
        (word, following)
        for (word, _, end), (following, start, _) in pairwise(spoken)
        if start < end - OVERLAP_S
    ]


def test_a_lost_a_repeated_and_a_wrong_word_are_told_apart() -> None:
    assert unmatched("one two three", "one three")
    assert unmatched("one two three", "one two two three")
    assert not unmatched("one nintendo three", "one can do three")
    assert uncovered([("one", 0.0, 0.5), ("two", 0.5, 1.0)], [("one", 0.0, 0.6)]) == [("two", 0.5, 1.0)]
    assert overlapping([("one", 0.0, 0.5), ("one", 0.1, 0.6)])
