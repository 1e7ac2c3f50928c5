"""Whether a language that is offered is the one that is wanted: BCP-47 tags, with or without a region."""

from collections.abc import Iterable


def primary(tag: str) -> str:
    """The language of a tag, without its region: ``en`` of ``en-US``."""
    return tag.replace("_", "-").partition("-")[0].lower()


def find(offered: Iterable[str], wanted: str) -> str | None:
    """The tag among ``offered`` that ``wanted`` is: the very same, or one of the two without a region.

    ``en`` stands for every region of English, so it is found for ``en-GB`` and finds ``en-US``; but ``en-US``
    is not ``en-GB``.
    """
    tags = list(offered)
    plain = wanted.replace("_", "-").lower()
    for tag in tags:
        if tag.lower() == plain:
            return tag
    for tag in tags:
        if primary(tag) == primary(plain) and ("-" not in tag or "-" not in plain):
            return tag
    return None
