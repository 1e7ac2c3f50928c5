"""Subtitles: exact syntax, readable lengths, nothing lost."""

import itertools
import re

from hypothesis import given
from hypothesis import strategies as st

from perch.cli.subtitles import MAX_CHARACTERS, MAX_SAMPLES, cues, srt, vtt
from perch.core.messages import Final
from perch.core.speech import Word


def segment(text: str, start: int = 16_000, end: int = 32_000, words: tuple[Word, ...] = ()) -> Final:
    return Final(0, text, start, end, words)


def spoken(*texts: str, step: int = 8_000) -> Final:
    words = tuple(Word(text, at * step, at * step + step // 2) for at, text in enumerate(texts))
    return segment(" ".join(texts), 0, words[-1].end, words)


WORDS = st.lists(st.text("abcdefghij", min_size=1, max_size=30), min_size=1, max_size=60)


def test_an_srt_file_has_numbers_times_and_texts() -> None:
    assert srt([segment("hello"), segment("world", 57_656_016, 57_664_000)]) == (
        "1\n00:00:01,000 --> 00:00:02,000\nhello\n\n2\n01:00:03,501 --> 01:00:04,000\nworld\n"
    )


def test_a_vtt_file_has_a_header_and_its_own_times() -> None:
    assert vtt([segment("hello")]) == "WEBVTT\n\n00:00:01.000 --> 00:00:02.000\nhello\n"


def test_vtt_escapes_what_would_be_markup() -> None:
    assert "a &lt;b&gt; &amp; c" in vtt([segment("a <b> & c")])


def test_nothing_said_is_an_empty_file() -> None:
    assert srt([]) == ""
    assert vtt([segment("  ")]) == "WEBVTT\n"


def test_a_segment_without_words_is_one_cue() -> None:
    assert len(cues([segment("word " * 100)])) == 1


@given(WORDS, st.integers(100, 60_000))
def test_long_segments_are_split_between_words_and_lose_none(texts: list[str], step: int) -> None:
    shown = cues([spoken(*texts, step=step)])
    assert " ".join(cue.text for cue in shown).split() == texts
    assert all(len(cue.text) <= MAX_CHARACTERS for cue in shown)
    assert all(" " not in cue.text or cue.end - cue.start <= MAX_SAMPLES for cue in shown)
    assert all(before.end <= after.start for before, after in itertools.pairwise(shown))


@given(st.integers(0, 10**10))
def test_times_are_always_well_formed(start: int) -> None:
    line = srt([segment("x", start, start)]).splitlines()[1]
    assert re.fullmatch(r"\d{2,}:[0-5]\d:[0-5]\d,\d{3} --> \d{2,}:[0-5]\d:[0-5]\d,\d{3}", line)
