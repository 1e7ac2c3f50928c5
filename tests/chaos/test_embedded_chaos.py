"""Real speech, a recogniser that knows real speech, and an engine that is killed in the middle of a word."""

import asyncio
import random
from contextlib import suppress

import jiwer
import pytest

from chaos.engine_process import EngineProcess, engine_process
from chaos.leaks import at_rest
from chaos.talking import talk
from gateways import Gateway, Heard, gateway
from perch.asr.pool import PoolConfig
from perch.asr.riva_client import RivaASRClient, RivaConfig
from perch.core.audio import RATE, samples_to_bytes
from perch.core.messages import Backend
from speech import Clip, clips, normalised

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]

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
    print(expected.text, "|", heard.text)
    alignment = jiwer.process_words(normalised(expected.text), normalised(heard.text))
    seam = [chunk for chunk in alignment.alignments[0] if chunk.type in {"insert", "delete"}]
    assert not seam, jiwer.visualize_alignment(alignment)
