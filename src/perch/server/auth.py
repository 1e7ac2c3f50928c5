"""Who is calling: API keys from every place a client can put one, and the Origin of pages."""

import hashlib
import hmac
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from perch.errors import OriginRefused, Unauthorized

KEY_SUBPROTOCOL = "perch-key."
"""Browsers cannot set headers on a WebSocket; they offer ``perch-key.<key>`` beside ``perch.v1``."""
ANONYMOUS = "anonymous"
_CREDENTIALS = {"api_key", "token", "access_token", "key"}


@dataclass(frozen=True, slots=True)
class Principal:
    """Who is calling. ``name`` is stable and does not reveal the key."""

    name: str


@dataclass(frozen=True, slots=True)
class Credentials:
    """Every place of a request where a credential can be."""

    headers: Mapping[str, str]
    query: Mapping[str, str]
    path_token: str = ""
    """What stands for ``{token}`` in the path, for callers that can send nothing else."""
    peer_certificate: Mapping[str, Any] | None = None


def strip_credentials(query: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """The parameters of a URL without those that carry a credential."""
    return [(name, value) for name, value in query if name not in _CREDENTIALS]


class Authenticator:
    """Checks API keys in constant time. With no keys configured everybody is ``anonymous``."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._digests = [_digest(key) for key in keys]

    @property
    def required(self) -> bool:
        return bool(self._digests)

    async def authenticate(self, credentials: Credentials, scope: str) -> Principal:
        """Who is calling, if it may do what ``scope`` names.

        Raises:
            Unauthorized: A key is needed, and there is none or a wrong one.
        """
        del scope
        if not self._digests:
            return Principal(ANONYMOUS)
        key = presented_key(credentials.headers, credentials.query) or credentials.path_token or None
        if key is None:
            raise Unauthorized(
                "An API key is needed: send it as 'Authorization: Bearer KEY', 'X-API-Key: KEY', "
                "?api_key=KEY, or the WebSocket subprotocol 'perch-key.KEY'."
            )
        digest = _digest(key)
        matches = [hmac.compare_digest(digest, known) for known in self._digests]
        if not any(matches):
            raise Unauthorized("The API key is not known here.")
        return Principal(f"key-{digest[:8].hex()}")


def presented_key(headers: Mapping[str, str], query: Mapping[str, str]) -> str | None:
    """The key a request carries, if any."""
    scheme, _, credentials = headers.get("Authorization", "").partition(" ")
    if scheme.lower() in {"bearer", "token"} and credentials.strip():
        return credentials.strip()
    if "X-API-Key" in headers:
        return headers["X-API-Key"]
    for offered in headers.get("Sec-WebSocket-Protocol", "").split(","):
        if offered.strip().startswith(KEY_SUBPROTOCOL):
            return offered.strip().removeprefix(KEY_SUBPROTOCOL)
    return query.get("api_key")


def check_origin(headers: Mapping[str, str], allowed: Iterable[str]) -> None:
    """Refuse pages of other sites: a browser sends their Origin and its user's network position.

    Raises:
        OriginRefused: The Origin is neither the gateway's own nor in ``allowed``.
    """
    origin = headers.get("Origin")
    if origin is None:
        return
    allowed = set(allowed)
    if "*" in allowed or origin in allowed:
        return
    if urlsplit(origin).netloc.lower() != headers.get("Host", "").lower():
        raise OriginRefused(
            f"Pages of {origin} may not use this gateway; allow it with PERCH_ALLOWED_ORIGINS."
        )


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
