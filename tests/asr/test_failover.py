"""Mid-stream failover: no word lost, none said twice, times on the session's clock."""

import asyncio
import random
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack
from typing import Any

import grpc
import pytest

from engines import engine_over, scripted_engine
from fakes.riva_server import ScriptedRiva, response, result, serving
from perch import errors
from perch.asr.attempt import AttemptTimeouts
from perch.asr.pool import PoolConfig
from perch.asr.riva_client import RivaASRClient, RivaConfig
from perch.asr.stream import StreamConfig
from perch.audio.tones import synthesise
from perch.core.audio import RATE
from perch.core.messages import Final, Notice
from perch.core.speech import Hypothesis, RecognitionConfig
from perch.inference.scripted import ScriptedRecogniser
from transports import channel

pytestmark = pytest.mark.usefixtures("transport")

SENTENCES = ["open the door", "the river", "the house", "the door", "open a river"]
SPEECH = synthesise(SENTENCES)
QUICK = StreamConfig(outage_s=10.0, retry_delay_s=0.01, max_retry_delay_s=0.1, replay_speed=100.0)
TOLERANT = PoolConfig(fail_max=1000)


def client(*addresses: str, stream: StreamConfig = QUICK, **config: Any) -> RivaASRClient:
    return RivaASRClient(
        RivaConfig(endpoints=addresses, channel=channel(), stream=stream, pool=TOLERANT, **config)
    )


async def pieces(audio: bytes, pause_s: float = 0.0, size: int = 3200) -> AsyncIterator[bytes]:
    for position in range(0, len(audio), size):
        yield audio[position : position + size]
        await asyncio.sleep(pause_s)


async def finals(asking: RivaASRClient, audio: AsyncIterator[bytes]) -> list[Final]:
    try:
        async with asyncio.timeout(40):
            return [e async for e in asking.stream_transcribe(audio, RATE) if isinstance(e, Final)]
    finally:
        await asking.aclose()


def spoken(heard: Iterable[Final]) -> list[tuple[str, int, int]]:
    return [(word.text, word.start, word.end) for final in heard for word in final.words]


async def undisturbed() -> list[tuple[str, int, int]]:
    async with scripted_engine() as engine:
        return spoken(await finals(client(engine.address), pieces(SPEECH)))


async def test_an_engine_killed_mid_stream_is_replaced_by_another_and_no_word_changes() -> None:
    expected = await undisturbed()
    assert [word for word, _, _ in expected] == " ".join(SENTENCES).split()
    async with scripted_engine() as first, scripted_engine() as second:
        asking = client(first.address, second.address)

        async def until_killed() -> AsyncIterator[bytes]:
            async for piece in pieces(SPEECH, 0.01):
                if asking.pool.endpoints[0].active and random.random() < 0.03:
                    await first.stop(0)
                yield piece
            await first.stop(0)

        assert spoken(await finals(asking, until_killed())) == expected


@pytest.mark.parametrize("seed", range(6))
async def test_killing_the_engine_again_and_again_loses_and_repeats_nothing(seed: int) -> None:
    """One engine after another dies at a random moment; a fresh one takes its place."""
    dice = random.Random(seed)
    expected = await undisturbed()
    async with AsyncExitStack() as stack:
        engines = [await stack.enter_async_context(scripted_engine()) for _ in range(4)]
        asking = client(*(engine.address for engine in engines))
        steps = sorted(dice.sample(range(len(SPEECH) // 3200), 3))

        async def killing() -> AsyncIterator[bytes]:
            step = 0
            async for piece in pieces(SPEECH, 0.01):
                yield piece
                step += 1
                if step in steps:
                    busy = [e for e, p in zip(engines, asking.pool.endpoints, strict=True) if p.active]
                    for engine in busy:
                        await engine.stop(0)

        assert spoken(await finals(asking, killing())) == expected


async def heard_by(asking: RivaASRClient, audio: bytes, config: RecognitionConfig | None = None) -> list[Any]:
    stream = asking.stream(config or RecognitionConfig())
    heard: list[Hypothesis | Notice] = []
    for position in range(0, len(audio), 3200):
        stream.send(audio[position : position + 3200])
    stream.end()
    try:
        async with asyncio.timeout(20):
            await stream.run(heard.append)
    finally:
        await asking.aclose()
    return heard


async def test_the_client_is_told_of_a_failover_and_only_uncovered_audio_is_sent_again() -> None:
    final = result("one", final=True, words=[("one", 100, 500)], audio_processed=1.0)

    def answer(number: int, _: object) -> list[Any]:
        if number == 1 and len(riva.calls) == 1:
            return [response(final)]
        if len(riva.calls) == 1 and number == 2:
            raise RuntimeError("engine bug")
        return []

    riva = ScriptedRiva(answer, at_end=[response(result("two", final=True, words=[("two", 300, 700)]))])
    audio = bytes(range(256)) * 500
    async with serving(riva) as address:
        heard = await heard_by(client(address), audio)
    notices = [item.code for item in heard if isinstance(item, Notice)]
    assert notices == ["engine_failover", "engine_recovered"]
    covered = round(0.8 * RATE)  # the last word's end and a moment after
    assert riva.calls[1].audio == audio[2 * covered :]
    [_, second] = [item for item in heard if isinstance(item, Hypothesis)]
    assert second.words[0].start == covered + round(0.3 * RATE), "times stay on the session's clock"


async def test_what_is_told_of_a_failure_is_true_where_no_engine_is_left() -> None:
    told: list[Any] = []
    async with scripted_engine() as engine:
        asking = client(engine.address, stream=StreamConfig(outage_s=0.3, retry_delay_s=0.05))
        stream = asking.stream(RecognitionConfig())
        running = asyncio.create_task(stream.run(told.append))
        async with asyncio.timeout(20):
            async for piece in pieces(SPEECH, 0.01):
                stream.send(piece)
                if told:
                    break
            await engine.stop(0)
            with pytest.raises(errors.EngineUnavailable):
                await running
    await asking.aclose()
    [notice] = [item for item in told if isinstance(item, Notice)]
    assert (notice.code, "goes on" in notice.message) == ("engine_failover", False)


async def test_a_failover_at_the_very_end_still_gives_the_last_final() -> None:
    expected = await undisturbed()
    async with scripted_engine() as first, scripted_engine() as second:
        asking = client(first.address, second.address)

        async def and_then_killed() -> AsyncIterator[bytes]:
            async for piece in pieces(SPEECH):
                yield piece
            await first.stop(0)

        assert spoken(await finals(asking, and_then_killed())) == expected


async def test_an_engine_that_comes_back_in_time_takes_the_stream_up_again() -> None:
    expected = await undisturbed()
    async with scripted_engine() as first:
        port = int(first.address.rpartition(":")[2])
        asking = client(first.address)
        transcribing = asyncio.create_task(finals(asking, pieces(SPEECH, 0.02)))
        while not asking.pool.endpoints[0].active:  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.3)
        await first.stop(0)
        await asyncio.sleep(0.3)
        async with scripted_engine(port=port):
            assert spoken(await transcribing) == expected


async def test_an_outage_that_lasts_too_long_is_an_error() -> None:
    async with scripted_engine() as engine:
        asking = client(engine.address, stream=StreamConfig(outage_s=0.3, retry_delay_s=0.05))

        async def endless() -> AsyncIterator[bytes]:
            while True:
                yield bytes(3200)
                await asyncio.sleep(0.01)

        transcribing = asyncio.create_task(finals(asking, endless()))
        while not asking.pool.endpoints[0].active:  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0.01)
        await engine.stop(0)
        with pytest.raises(errors.EngineUnavailable):
            await transcribing


async def test_audio_that_can_no_longer_be_replayed_is_said_to_be_lost() -> None:
    def answer(number: int, _: object) -> list[Any]:
        if len(riva.calls) == 1 and number == 10:
            raise RuntimeError("engine bug")
        return [response()] if number else []

    riva = ScriptedRiva(answer)
    short = StreamConfig(replay_s=1.0, retry_delay_s=0.01, replay_speed=1000.0)
    async with serving(riva) as address:
        heard = await heard_by(client(address, stream=short), bytes(32_000 * 15))
    [lost] = [item for item in heard if isinstance(item, Notice) and item.code == "audio_lost"]
    assert "from 0.0 s" in lost.message


async def test_a_forgotten_idle_stream_is_opened_again_without_a_word() -> None:
    expected = await undisturbed()
    async with scripted_engine(idle_sequence_s=0.3) as engine:
        asking = client(engine.address)

        async def with_a_pause() -> AsyncIterator[bytes]:
            half = len(SPEECH) // 6400 * 3200
            async for piece in pieces(SPEECH[:half]):
                yield piece
            await asyncio.sleep(1.0)
            async for piece in pieces(SPEECH[half:]):
                yield piece

        assert spoken(await finals(asking, with_a_pause())) == expected


async def test_silence_keeps_an_idle_engine_awake_and_moves_no_word() -> None:
    expected = await undisturbed()
    async with scripted_engine(idle_sequence_s=3.0) as engine:
        asking = client(engine.address, timeouts=AttemptTimeouts(idle_s=0.5))
        # The first pause of the speech is where a client that detects silence stops sending.
        quiet = round((expected[2][2] / RATE + 0.5) * RATE) * 2

        async def with_a_pause() -> AsyncIterator[bytes]:
            yield SPEECH[:quiet]
            await asyncio.sleep(4.0)
            async for piece in pieces(SPEECH[quiet:]):
                yield piece

        assert spoken(await finals(asking, with_a_pause())) == expected
        assert asking.pool.endpoints[0].breaker.fail_counter == 0


async def test_old_streams_are_replaced_at_the_end_of_an_utterance() -> None:
    expected = await undisturbed()
    async with scripted_engine() as engine:
        rotating = StreamConfig(rotate_after_s=0.0, replay_speed=100.0)
        asking = client(engine.address, stream=rotating)
        assert spoken(await finals(asking, pieces(SPEECH, 0.005))) == expected


async def test_an_engine_that_never_ends_utterances_still_gives_finals() -> None:
    def answer(number: int, _: object) -> list[Any]:
        text = "hello" if number < 100 else "hello again"
        return [response(result(text, audio_processed=0.1 * min(number, 10)))] if number else []

    riva = ScriptedRiva(answer)
    soon = StreamConfig(settle_after_s=0.3, replay_speed=1000.0)
    async with serving(riva) as address:
        asking = client(address, stream=soon)
        heard = await finals(asking, pieces(bytes(32_000 * 2), 0.05))
    assert heard
    assert heard[0].text == "hello"


async def test_an_engine_that_stops_answering_is_replaced() -> None:
    expected = await undisturbed()

    stuck = ScriptedRiva(lambda number, _: [response()] if number == 1 else [])
    async with serving(stuck) as dead_end, scripted_engine() as engine:
        impatient = AttemptTimeouts(response_s=0.5, finish_s=0.5, first_response_s=0.5)
        asking = client(dead_end, engine.address, timeouts=impatient)
        assert spoken(await finals(asking, pieces(SPEECH, 0.02))) == expected
    assert len(stuck.calls) == 1


async def test_a_full_engine_is_passed_over_for_one_with_room() -> None:
    full = ScriptedRiva(failures=100, status=grpc.StatusCode.RESOURCE_EXHAUSTED)
    expected = await undisturbed()
    async with serving(full) as crowded, scripted_engine() as engine:
        assert spoken(await finals(client(crowded, engine.address), pieces(SPEECH))) == expected


async def test_when_every_engine_is_full_the_client_hears_of_it_soon() -> None:
    full = ScriptedRiva(failures=10_000, status=grpc.StatusCode.RESOURCE_EXHAUSTED)
    async with serving(full) as crowded:
        asking = client(crowded, stream=StreamConfig(outage_s=30.0, full_s=0.2, retry_delay_s=0.01))
        with pytest.raises(errors.EngineFull):
            async with asyncio.timeout(30):
                await finals(asking, pieces(SPEECH))


async def test_an_endpoint_that_lists_the_model_is_preferred() -> None:
    plain, spanish = ScriptedRiva(), ScriptedRiva()
    async with serving(plain) as one, serving(spanish) as other:
        asking = client(one, other)
        await asking.models()
        asking.pool.endpoints[0].models = ()
        asking.pool.endpoints[1].models = asking.pool.endpoints[1].models
        first, second = asking.pool.endpoints
        assert second.suits(RecognitionConfig(language="es-US"))
        assert not second.suits(RecognitionConfig(language="fr-FR"))
        with asking.pool.lease(RecognitionConfig(language="fr-FR")) as chosen:
            assert chosen is first
        await asking.aclose()


async def test_a_successor_goes_on_where_a_stream_was_left() -> None:
    expected = await undisturbed()
    async with scripted_engine() as engine:
        asking = client(engine.address)
        heard: list[Hypothesis] = []

        def keep(item: Hypothesis | Notice) -> None:
            if isinstance(item, Hypothesis) and item.is_final:
                heard.append(item)

        first = asking.stream(RecognitionConfig())
        half = len(SPEECH) // 6400 * 3200
        first.send(SPEECH[:half])
        running = asyncio.create_task(first.run(keep))
        while not heard:  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0.01)
        running.cancel()
        await asyncio.wait([running])
        second = asking.stream(RecognitionConfig(), state=first.state())
        second.send(SPEECH[half:])
        second.end()
        await second.run(keep)
        await asking.aclose()
    assert [(w.text, w.start, w.end) for final in heard for w in final.words] == expected


async def test_an_engine_that_says_it_does_not_serve_gets_no_new_streams() -> None:
    ill, well = ScriptedRecogniser(), ScriptedRecogniser()
    async with engine_over(ill) as first, engine_over(well) as second:
        asking = client(first.address, second.address)
        ill.fail("told to")
        assert await asking.models()
        assert [endpoint.serving for endpoint in asking.pool.endpoints] == [False, True]
        with asking.pool.lease() as chosen:
            assert chosen.address == second.address
        well.fail("told to")
        with pytest.raises(errors.EngineUnavailable):
            await asking.models()
        await asking.aclose()
