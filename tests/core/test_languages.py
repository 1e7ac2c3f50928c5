import pytest

from perch.core.languages import canonical, common, find, nearest


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("en", "en"),
        ("EN-us", "en-US"),
        ("de_DE", "de-DE"),
        ("zh_hant_tw", "zh-Hant-TW"),
        ("es-419", "es-419"),
        ("yue", "yue"),
        ("ca-ES-VALENCIA", "ca-ES-valencia"),
        ("de_ch_1901", "de-CH-1901"),
        ("en-us-x-Radio", "en-US-x-radio"),
    ],
)
def test_a_tag_may_be_written_in_any_case_and_with_underscores(written: str, meant: str) -> None:
    assert canonical(written) == meant


@pytest.mark.parametrize(
    "written", ["", "klingon", "e", "english", "en-", "en US", "en-USA", "auto", "en,de"]
)
def test_what_has_not_the_form_of_a_tag_is_refused(written: str) -> None:
    with pytest.raises(ValueError, match="not a language tag"):
        canonical(written)


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
