"""What is shown of a changing hypothesis."""

from hypothesis import given
from hypothesis import strategies as st

from perch.inference.partials import INTERVAL, SETTLED, HeardWord, StablePrefix


def heard(text: str, end: int = 0) -> list[HeardWord]:
    """Words of which the last ends at ``end``."""
    return [HeardWord(word, end) for word in text.split()]


def test_a_word_is_shown_once_two_looks_agree_on_it() -> None:
    prefix = StablePrefix()
    assert prefix.update(heard("eight of", 6000), 6000) is None
    assert prefix.update(heard("eight of spades", 12_000), 12_000) == "eight of"


def test_the_last_word_is_held_back_while_it_may_still_be_spoken() -> None:
    prefix = StablePrefix()
    prefix.update(heard("eight of", 12_000), 12_000)
    assert prefix.update(heard("eight of", 18_000), 18_000) == "eight"


def test_the_last_word_is_shown_once_it_has_settled() -> None:
    prefix = StablePrefix()
    prefix.update(heard("eight of", 6000), 6000)
    assert prefix.update(heard("eight of", 6000), 6000 + SETTLED) == "eight of"


def test_what_changes_stays_hidden() -> None:
    prefix = StablePrefix()
    prefix.update(heard("ate off", 6000), 10_000)
    assert prefix.update(heard("eight of", 6000), 16_000) is None


def test_a_shown_text_that_merely_shrinks_stays() -> None:
    prefix = StablePrefix()
    prefix.update(heard("eight of spades four", 6000), 10_000)
    assert prefix.update(heard("eight of spades four", 6000), 16_000) == "eight of spades four"
    assert prefix.update(heard("eight of", 6000), 22_000) is None
    assert prefix.update(heard("eight of", 6000), 28_000) is None


def test_a_shown_word_is_replaced_when_two_looks_agree_against_it() -> None:
    prefix = StablePrefix()
    prefix.update(heard("ate", 6000), 10_000)
    assert prefix.update(heard("ate", 6000), 16_000) == "ate"
    assert prefix.update(heard("eight of", 6000), 22_000) is None
    assert prefix.update(heard("eight of", 6000), 28_000) == "eight of"


def test_looks_are_an_interval_apart() -> None:
    prefix = StablePrefix()
    assert prefix.due(0)
    prefix.update([], 1000)
    assert not prefix.due(1000 + INTERVAL - 1)
    assert prefix.due(1000 + INTERVAL)


@given(st.lists(st.lists(st.sampled_from("ab"), max_size=6), max_size=30))
def test_a_text_is_only_reported_when_it_differs_from_the_one_before(hypotheses: list[list[str]]) -> None:
    prefix = StablePrefix()
    shown = ""
    for look, words in enumerate(hypotheses):
        text = prefix.update([HeardWord(word, 0) for word in words], look * INTERVAL)
        if text is not None:
            assert text != shown
            shown = text
