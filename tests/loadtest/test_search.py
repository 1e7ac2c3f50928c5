"""The knee is found from any shape of machine, and a hiccup is no knee."""

import pytest

from perch.loadtest.search import PRECISION, Tried, following, knee


def searched(holds_up_to: int, *, first: int = 10, most: int = 10_000) -> list[Tried]:
    """A whole search of a machine that holds up to so many sessions."""
    tried: list[Tried] = []
    while (sessions := following(tried, first, most)) is not None:
        tried.append(Tried(sessions, sessions <= holds_up_to))
        assert len(tried) < 40, "a search ends"
    return tried


@pytest.mark.parametrize("truth", [1, 3, 9, 10, 11, 57, 100, 999, 2_345])
def test_the_knee_is_within_a_tenth_of_the_truth_and_never_above_it(truth: int) -> None:
    """003-111: the knee is found automatically."""
    found = knee(searched(truth))
    assert found <= truth
    assert truth - found <= max(1, 2 * PRECISION * truth)


def test_concurrency_doubles_until_something_breaks() -> None:
    assert [one.sessions for one in searched(75)][:4] == [10, 20, 40, 80]


def test_what_breaks_is_tried_once_more_before_it_counts() -> None:
    tried = [Tried(10, True), Tried(20, False)]
    assert following(tried, 10, 1_000) == 20
    assert following([*tried, Tried(20, True)], 10, 1_000) == 40
    assert following([*tried, Tried(20, False)], 10, 1_000) == 15


def test_nothing_above_the_maximum_is_tried() -> None:
    assert max(one.sessions for one in searched(10_000, most=150)) == 150
    assert following([], 500, 150) == 150


def test_a_gateway_that_takes_nothing_has_no_knee() -> None:
    assert knee(searched(0)) == 0
