"""Who a caller is found to be, and what it may do."""

from dataclasses import dataclass
from typing import Literal

SCOPES = ("transcribe", "models", "tokens", "metrics", "admin")
"""Everything a caller can be allowed: sessions and files, the list of models, making browser tokens, …"""
ONCE = frozenset({"transcribe", "models"})
"""What a browser token may do at most."""
EVERYDAY = ONCE | {"tokens"}
"""What a key, a JWT or a certificate may do that says nothing of scopes. A token allows no more than it does."""
ANONYMOUS = "anonymous"

Source = Literal["nobody", "key", "jwt", "certificate"]


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """What one caller may use. None leaves it to the gateway's own limits."""

    sessions: int | None = None
    audio_s_per_min: int | None = None
    requests_per_min: int | None = None


UNLIMITED = KeyLimits()


@dataclass(frozen=True, slots=True)
class Principal:
    """Who is calling. ``name`` is stable and does not reveal the key."""

    name: str
    scopes: frozenset[str] = EVERYDAY
    limits: KeyLimits = UNLIMITED
    source: Source = "nobody"
    """What vouched for it; a token keeps its maker's."""
