"""Every place of a request where a credential can be, in every dialect."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

KEY_SUBPROTOCOL = "perch-key."
"""Browsers cannot set headers on a WebSocket; they offer ``perch-key.<key>`` beside ``perch.v1``."""
_PREFIXES = (KEY_SUBPROTOCOL, "openai-insecure-api-key.", "realtime-token.")
_PAIRS = {"token", "bearer"}
"""Deepgram's browsers offer two subprotocols: one of these, then the credential."""
_SCHEMES = {"bearer", "token"}
_QUERY = ("api_key", "token", "access_token", "key")


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a request brings along to say who it is from."""

    headers: Mapping[str, str]
    query: Mapping[str, str]
    path_token: str = ""
    """What stands for ``{token}`` in the path, for callers that can send nothing else."""
    peer_certificate: Mapping[str, Any] | None = None
    """As ``ssl`` describes it; only ever a certificate that was verified."""
    address: str = ""
    """Where the request comes from; failed attempts are counted by it."""


def strip_credentials(query: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """The parameters of a URL without those that carry a credential."""
    return [(name, value) for name, value in query if name not in _QUERY]


def presented(credentials: Credentials) -> str | None:
    """The key or token a request carries: the first found in header, subprotocol, query, path."""
    return next((found for found in _found(credentials) if found), None)


def _found(credentials: Credentials) -> Iterator[str]:
    headers = credentials.headers
    yield _authorization(headers.get("Authorization", ""))
    yield headers.get("X-API-Key", "").strip()
    yield offered(headers.get("Sec-WebSocket-Protocol", ""))
    for name in _QUERY:
        yield credentials.query.get(name, "")
    yield credentials.path_token


def _authorization(header: str) -> str:
    """``Bearer K``, ``Token K``, or the key alone; other schemes are somebody else's (a proxy's Basic)."""
    scheme, space, rest = header.strip().partition(" ")
    if not space:
        return "" if scheme.lower() in _SCHEMES else scheme
    return rest.strip() if scheme.lower() in _SCHEMES else ""


def offered(header: str) -> str:
    """The credential among the offered subprotocols, if there is one."""
    items = [item.strip() for item in header.split(",")]
    for item in items:
        for prefix in _PREFIXES:
            if item.startswith(prefix):
                return item.removeprefix(prefix)
    if len(items) > 1 and items[0].lower() in _PAIRS:
        return items[1]
    return ""


def identities(certificate: Mapping[str, Any]) -> list[str]:
    """The names in a client's certificate, most telling first: DNS, URI, e-mail, then the common name."""
    alternatives = certificate.get("subjectAltName", ())
    names = [value for wanted in ("DNS", "URI", "email") for kind, value in alternatives if kind == wanted]
    common = [
        value for part in certificate.get("subject", ()) for kind, value in part if kind == "commonName"
    ]
    return names + common
