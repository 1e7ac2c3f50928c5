"""Tokens become text and words on the utterance's clock."""

import pytest

from perch.core.speech import Characters, Word
from perch.inference.parakeet.model import FRAME, Token
from perch.inference.parakeet.words import recognition, text_of


def test_words_begin_at_marked_tokens_and_punctuation_belongs_to_the_word_before() -> None:
    tokens = [
        Token("▁he", 1, 1, 0.9),
        Token("llo", 2, 1, 0.5),
        Token(",", 3, 1, 0.8),
        Token("▁world", 5, 2, 0.7),
    ]
    final = recognition(tokens, samples=10 * FRAME)
    assert final.text == "hello, world"
    assert final.words == (
        Word(
            "hello,",
            FRAME,
            4 * FRAME,
            0.5,
            characters=(
                Characters("he", FRAME, 2 * FRAME),
                Characters("llo", 2 * FRAME, 3 * FRAME),
                Characters(",", 3 * FRAME, 4 * FRAME),
            ),
        ),
        Word("world", 5 * FRAME, 7 * FRAME, 0.7, characters=(Characters("world", 5 * FRAME, 7 * FRAME),)),
    )
    assert final.confidence == pytest.approx((0.9 * 0.5 * 0.8 * 0.7) ** 0.25, abs=1e-4)


def test_a_lone_mark_begins_the_word_that_follows() -> None:
    assert [word.text for word in recognition([Token("▁", 0), Token("a", 1)], samples=5000).words] == ["a"]
    assert recognition([Token("▁", 0)], samples=5000).words == ()


def test_characters_neither_overlap_nor_leave_their_word() -> None:
    tokens = [Token("▁a", 0, 9), Token("b", 2, 0), Token("c", 2, 9), Token("▁d", 3, 1)]
    word, _ = recognition(tokens, samples=9 * FRAME).words
    assert [(one.text, one.start // FRAME, one.end // FRAME) for one in word.characters] == [
        ("a", 0, 2),
        ("b", 2, 2),
        ("c", 2, 3),
    ]
    assert "".join(one.text for one in word.characters) == word.text
    assert (word.characters[0].start, word.characters[-1].end) == (word.start, word.end)


def test_times_do_not_leave_the_utterance_nor_run_into_the_next_word() -> None:
    words = recognition([Token("▁a", 0, 9), Token("▁b", 2, 9), Token("▁c", 99)], samples=3 * FRAME).words
    assert [(word.start, word.end) for word in words] == [
        (0, 2 * FRAME),
        (2 * FRAME, 3 * FRAME),
        (3 * FRAME, 3 * FRAME),
    ]


def test_no_tokens_are_no_text_and_an_unknown_confidence_stays_unknown() -> None:
    assert recognition([], samples=0).text == text_of([]) == ""
    assert recognition([Token("▁a", 0)], samples=FRAME).confidence is None
