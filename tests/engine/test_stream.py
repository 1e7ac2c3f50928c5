"""A recognition stream without a transport: what is said when, and where on the stream's clock."""

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perch.audio.tones import Timing, layout, synthesise
from perch.core.audio import RATE
from perch.core.speech import Endpointing, Hypothesis, RecognitionConfig, Word
from perch.engine.audio import RivaDecoder
from perch.engine.stream import INTERMEDIATE_FINAL, RecognitionStream
from perch.engine.voice import TimedDetector, TimedVoice
from perch.inference.endpointer import Defaults, Endpointer
from perch.inference.recogniser import Recognition
from perch.inference.scripted import ScriptedRecogniser, ScriptedVoice
from perch.riva.convert import DeclaredAudio

PAUSES = Timing(lead_s=0.5, pause_s=1.5, tail_s=0.3)
SILENCE = bytes(2 * RATE)  # one second


async def open_stream(
    config: RecognitionConfig | None = None, *, voice: Any = None, max_utterance: int = 15 * RATE
) -> RecognitionStream:
    recogniser = ScriptedRecogniser()
    config = config or RecognitionConfig(language="en-US")
    detector = recogniser.detector()
    return RecognitionStream(
        voice=TimedVoice(voice or await recogniser.open(config), timeout_s=1),
        detector=TimedDetector(detector, timeout_s=1),
        endpointer=Endpointer(config.endpointing, detector.frame, Defaults(max_utterance=max_utterance)),
        decoder=RivaDecoder(DeclaredAudio("linear_pcm", 16_000, 1)),
        config=config,
    )


async def feed_all(stream: RecognitionStream, pcm: bytes, chunk: int = 3200) -> list[list[Hypothesis]]:
    return [await stream.feed(pcm[i : i + chunk]) for i in range(0, len(pcm), chunk)]


async def hear(pcm: bytes, config: RecognitionConfig | None = None, chunk: int = 3200) -> list[Hypothesis]:
    """Everything said of ``pcm``, in order."""
    stream = await open_stream(config)
    answers = [*await feed_all(stream, pcm, chunk), await stream.finish()]
    return list(itertools.chain.from_iterable(answers))


def finals(hypotheses: list[Hypothesis]) -> list[Hypothesis]:
    return [hypothesis for hypothesis in hypotheses if hypothesis.is_final]


async def test_every_utterance_becomes_one_final_with_its_words_where_they_were_spoken() -> None:
    said = ["hello perch", "red green blue"]
    got = finals(await hear(synthesise(said, PAUSES)))
    assert [final.text for final in got] == said
    assert [final.words for final in got] == [tuple(words) for words in layout(said, PAUSES)]


async def test_partials_grow_within_an_utterance_and_begin_again_with_the_next() -> None:
    hypotheses = await hear(synthesise(["one two", "three four"], PAUSES))
    assert [(h.text, h.is_final) for h in hypotheses] == [
        ("one", False),
        ("one two", False),
        ("one two", True),
        ("three", False),
        ("three four", False),
        ("three four", True),
    ]


async def test_an_answer_has_finals_first_and_at_most_one_partial() -> None:
    stream = await open_stream()
    (answer,) = await feed_all(stream, synthesise(["one", "two", "three four"], PAUSES), chunk=10**9)
    assert [(h.text, h.is_final) for h in answer] == [("one", True), ("two", True), ("three four", False)]


async def test_without_interim_results_there_are_finals_only() -> None:
    config = RecognitionConfig(interim_results=False, endpointing=Endpointing(stop_history_eou_ms=240))
    hypotheses = await hear(synthesise(["one two", "three"], PAUSES), config)
    assert [h.text for h in hypotheses] == ["one two", "three"]
    assert all(h.is_final for h in hypotheses)


async def test_without_word_times_there_are_no_words() -> None:
    (final,) = finals(await hear(synthesise("one two"), RecognitionConfig(word_times=False)))
    assert final.text == "one two"
    assert final.words == ()


@pytest.mark.parametrize("seconds", [0, 3])
async def test_a_stream_of_nothing_ends_with_one_empty_final(seconds: int) -> None:
    (final,) = await hear(SILENCE * seconds)
    assert (final.text, final.is_final, final.end) == ("", True, seconds * RATE)


async def test_silence_after_a_final_adds_nothing_at_the_end() -> None:
    stream = await open_stream()
    answers = await feed_all(stream, synthesise("one") + SILENCE * 2)
    assert [h.text for answer in answers for h in answer if h.is_final] == ["one"]
    assert await stream.finish() == []


async def test_a_word_cut_off_by_the_end_of_the_stream_is_still_said() -> None:
    stream = await open_stream()
    await feed_all(stream, synthesise("one two", Timing(tail_s=0.0)))
    assert [h.text for h in await stream.finish()] == ["one two"]


async def test_the_early_end_is_a_partial_of_full_stability() -> None:
    config = RecognitionConfig(endpointing=Endpointing(stop_history_ms=1200, stop_history_eou_ms=240))
    hypotheses = await hear(synthesise(["one two"]) + SILENCE * 2, config)
    assert [(h.text, h.is_final, h.stability) for h in hypotheses] == [
        ("one", False, 0.0),
        ("one two", False, 0.0),
        ("one two", False, INTERMEDIATE_FINAL),
        ("one two", True, 0.0),
    ]


async def test_a_forced_end_makes_a_final_at_once_and_the_stream_goes_on_on_the_same_clock() -> None:
    stream = await open_stream()
    first = synthesise("one two", Timing(tail_s=0.08))
    await feed_all(stream, first)
    assert [(h.text, h.is_final) for h in await stream.feed(b"", force_eou=True)] == [("one two", True)]
    second = Timing(lead_s=0.4)
    await feed_all(stream, synthesise("three", second))
    (final,) = await stream.finish()
    (expected,) = layout(["three"], second)[0]
    offset = len(first) // 2
    assert final.words == (Word("three", expected.start + offset, expected.end + offset, 1.0),)


async def test_a_forced_end_in_silence_says_nothing() -> None:
    stream = await open_stream()
    await feed_all(stream, SILENCE)
    assert await stream.feed(b"", force_eou=True) == []


async def test_speech_without_a_pause_is_cut_at_the_longest_utterance_and_loses_no_word() -> None:
    words = " ".join(["one two three four five six seven eight nine ten"] * 4)
    stream = await open_stream(max_utterance=3 * RATE)
    answers = [*await feed_all(stream, synthesise(words)), await stream.finish()]
    got = finals([h for answer in answers for h in answer])
    assert len(got) > 1
    assert " ".join(final.text for final in got) == words


@settings(max_examples=25)
@given(st.lists(st.integers(1, 40_000), min_size=1, max_size=12))
def test_finals_do_not_depend_on_how_the_stream_was_cut(sizes: list[int]) -> None:
    import asyncio

    pcm = synthesise(["one two three", "four", "five six"], PAUSES)

    async def cut_up() -> list[Hypothesis]:
        stream = await open_stream()
        said = []
        position = 0
        for size in itertools.cycle(sizes):
            if position >= len(pcm):
                break
            said += await stream.feed(pcm[position : position + size])
            position += size
        return finals(said + await stream.finish())

    assert asyncio.run(cut_up()) == asyncio.run(whole(pcm))


async def whole(pcm: bytes) -> list[Hypothesis]:
    return finals(await hear(pcm, chunk=len(pcm)))


class Mute(ScriptedVoice):
    """A voice that makes nothing of what it hears, except the last time."""

    heard = 0

    async def feed(self, pcm: bytes) -> str | None:
        return None

    async def finish(self) -> Recognition:
        self.heard += 1
        return Recognition("" if self.heard < 3 else "at last")


async def test_utterances_that_come_to_nothing_are_not_mentioned() -> None:
    stream = await open_stream(voice=Mute(ScriptedRecogniser()))
    answers = [*await feed_all(stream, synthesise(["one", "two", "three"], PAUSES)), await stream.finish()]
    assert [h.text for answer in answers for h in answer] == ["at last"]


async def test_if_all_came_to_nothing_one_empty_final_says_so_at_the_end() -> None:
    stream = await open_stream(voice=Mute(ScriptedRecogniser()))
    assert not any(await feed_all(stream, synthesise(["one", "two"], PAUSES)))
    assert [(h.text, h.is_final) for h in await stream.finish()] == [("", True)]


class Babbler:
    """A voice whose word times are nonsense."""

    async def feed(self, pcm: bytes) -> str | None:
        return None

    async def finish(self) -> Recognition:
        words = (
            Word("before", -500, -100),
            Word("back", 4000, 2000),
            Word("again", 1000, 1500),
            Word("late", 10**9, 10**9 + 5),
        )
        return Recognition("before back again late", words)

    async def aclose(self) -> None:
        pass


async def test_word_times_are_in_order_and_within_what_was_heard_whatever_the_voice_says() -> None:
    stream = await open_stream(voice=Babbler())
    await feed_all(stream, synthesise("one two", PAUSES))
    (final,) = await stream.finish()
    assert final.end is not None
    times = [time for word in final.words for time in (word.start, word.end)]
    assert times == sorted(times)
    assert times[0] >= 0
    assert times[-1] <= final.end
