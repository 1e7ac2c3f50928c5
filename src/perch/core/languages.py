"""Whether a language that is offered is the one that is wanted: BCP-47 tags, with or without a region."""

import re
from collections.abc import Iterable, Sequence

AUTO = "auto"
DEFAULT = "default"
"""Clients that must send something send this; it is as good as nothing."""
_OPEN = frozenset({"", AUTO, "multi", DEFAULT})

_TAG = re.compile(
    r"[a-z]{2,3}(-[a-z]{4})?(-([a-z]{2}|[0-9]{3}))?"
    r"(-([a-z0-9]{5,8}|[0-9][a-z0-9]{3}))*(-[a-wy-z0-9](-[a-z0-9]{2,8})+)*(-x(-[a-z0-9]{1,8})+)?",
    re.IGNORECASE,
)
"""RFC 5646, 2.1, but for extended languages (``zh-cmn`` is ``cmn``), as which ``en-USA`` would pass, and for
languages of four letters or more, of which there are none."""


def canonical(tag: str) -> str:
    """``tag`` as it is usually written: ``de-DE`` for ``de_de``.

    Raises:
        ValueError: It has not the form of a BCP-47 tag.
    """
    plain = tag.replace("_", "-")
    if not _TAG.fullmatch(plain):
        raise ValueError(f"{tag!r} is not a language tag such as en or en-US")
    language, *more = plain.lower().split("-")
    return "-".join([language, *map(_cased, more)])


def _cased(subtag: str) -> str:
    """RFC 5646, 2.1.1: a region in capitals, a script with one."""
    return subtag.upper() if len(subtag) == 2 else subtag.title() if len(subtag) == 4 else subtag


def is_open(tag: str) -> bool:
    """Whether ``tag`` names no language, but leaves it to the recogniser."""
    return tag.lower() in _OPEN


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


def nearest(offered: Iterable[str], wanted: str) -> str | None:
    """As ``find``; a region that is not offered is better served by another of its language than not at all."""
    tags = list(offered)
    same = (tag for tag in tags if primary(tag) == primary(wanted))
    return find(tags, wanted) or next(same, None)


def default_for(offered: Sequence[str], default: str) -> str:
    """What is spoken to a model that offers these, if nobody said: ``default``, or else the first of them.

    Empty if ``default`` leaves it open.
    """
    if is_open(default):
        return ""
    if not offered:
        return default
    found = nearest(offered, default)
    if found is None:
        return offered[0]
    return found if "-" in found else default


def common(tags: Iterable[str]) -> str:
    """The language that all ``tags`` are: the tag if there is one, without its region if there are several.

    Empty if they are several languages: then nobody knows which of them is spoken.
    """
    offered = tuple(tags)
    if len(offered) == 1:
        return offered[0]
    primaries = {primary(tag) for tag in offered}
    return primaries.pop() if len(primaries) == 1 else ""
