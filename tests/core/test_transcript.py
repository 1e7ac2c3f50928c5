"""Transcript: partials replace, finals append, nothing is said twice."""

from perch.core.messages import Final, Partial, SpeechStarted, UtteranceEnd
from perch.core.speech import Hypothesis, Word
from perch.core.transcript import Transcript


def partial(text: str, end: int = 1000) -> Hypothesis:
    return Hypothesis(text, is_final=False, end=end)


def final(text: str, *words: tuple[str, int, int], end: int = 0) -> Hypothesis:
    spoken = tuple(Word(word, start, stop) for word, start, stop in words)
    return Hypothesis(text, is_final=True, words=spoken, end=end or (spoken[-1].end if spoken else None))


def test_a_segment_begins_with_speech_and_ends_with_its_utterance() -> None:
    transcript = Transcript()
    assert transcript.receive(partial("he")) == [SpeechStarted(0, 1000), Partial(0, "he", 0, 1000)]
    assert transcript.receive(partial("hello", 2000)) == [Partial(0, "hello", 0, 2000)]
    words = (Word("hello", 300, 1800),)
    assert transcript.receive(final("hello", ("hello", 300, 1800), end=2500)) == [
        Final(0, "hello", 300, 1800, words, heard=2500),
        UtteranceEnd(0, 1800),
    ]
    assert transcript.receive(partial("world", 4000))[1] == Partial(1, "world", 1800, 4000)


def test_an_unchanged_partial_is_not_said_again() -> None:
    transcript = Transcript()
    transcript.receive(partial("a"))
    assert transcript.receive(partial("a", 5000)) == []


def test_silence_says_nothing() -> None:
    transcript = Transcript()
    assert transcript.receive(partial("")) == []
    assert transcript.receive(final("", end=9000)) == []
    assert (transcript.segments, transcript.text) == (0, "")


def test_an_empty_final_takes_back_a_shown_partial() -> None:
    transcript = Transcript()
    transcript.receive(partial("noise"))
    events = transcript.receive(final("", end=9000))
    assert [type(event) for event in events] == [Final, UtteranceEnd]
    assert transcript.text == ""


def test_a_final_heard_again_after_a_replay_is_dropped() -> None:
    transcript = Transcript()
    said = final("one two", ("one", 100, 900), ("two", 1000, 1800))
    assert transcript.receive(said)
    assert transcript.receive(said) == []
    assert transcript.receive(final("three", ("three", 2000, 2600)))
    assert transcript.text == "one two three"
    assert transcript.covered == 2600


def test_the_same_word_said_twice_is_two_words() -> None:
    transcript = Transcript()
    transcript.receive(final("yes", ("yes", 100, 900)))
    assert transcript.receive(final("yes", ("yes", 2000, 2800)))
    assert transcript.text == "yes yes"
