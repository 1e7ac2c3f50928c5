import pytest

from perch.core.languages import find


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
