import pytest

from perch.core.languages import common, find, nearest


@pytest.mark.parametrize(
    ("offered", "wanted", "found"),
    [
        (("en-US",), "en-US", "en-US"),
        (("en-US",), "EN_us", "en-US"),
        (("en-US",), "en", "en-US"),
        (("en",), "en-GB", "en"),
        (("en-US", "en-GB"), "en-GB", "en-GB"),
        (("en-US",), "en-GB", None),
        (("en", "de"), "fr", None),
        ((), "en", None),
    ],
)
def test_a_bare_language_is_every_region_and_one_region_is_no_other(
    offered: tuple[str, ...], wanted: str, found: str | None
) -> None:
    assert find(offered, wanted) == found


@pytest.mark.parametrize(
    ("offered", "wanted", "found"),
    [
        (("en-US", "en-GB"), "en-GB", "en-GB"),
        (("de", "en-US"), "en-GB", "en-US"),
        (("de", "fr"), "en-GB", None),
    ],
)
def test_the_nearest_is_another_region_before_none(
    offered: tuple[str, ...], wanted: str, found: str | None
) -> None:
    assert nearest(offered, wanted) == found


@pytest.mark.parametrize(
    ("tags", "language"),
    [(("en-US",), "en-US"), (("en-US", "en-GB"), "en"), (("bg", "en"), ""), ((), "")],
)
def test_a_language_is_common_if_there_is_no_other(tags: tuple[str, ...], language: str) -> None:
    assert common(tags) == language
