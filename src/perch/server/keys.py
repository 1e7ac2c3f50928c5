"""API keys: made with 256 bits of chance, kept as their hashes, looked up by hash.

The file holds one JSON object a line; blank lines and lines that begin with ``#`` are for people. A key is
too random to be guessed from its hash, so a plain SHA-256 is enough and costs a microsecond; and because
what is looked up is the hash, how long the look-up takes says nothing about any key.
"""

import asyncio
import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog

from perch.core.command import command
from perch.errors import BadConfig, Unauthorized
from perch.server.principal import EVERYDAY, SCOPES, UNLIMITED, KeyLimits, Principal
from perch.server.reload import Stamp, stamp_of

log = structlog.get_logger(__name__)

_PREFIX = "pk_"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_HASH = re.compile(r"sha256:[0-9a-f]{64}")
_FIELDS = {"name", "hash", "certificate", "scopes", "limits", "expires", "disabled"}
_LIMITS = {"sessions", "audio_s_per_min", "requests_per_min"}


@dataclass(frozen=True, slots=True)
class KeyEntry:
    """One line of the file: who a key, or a client certificate, belongs to."""

    name: str
    hash: str = ""
    certificate: str = ""
    """A name in a client's certificate, instead of a key."""
    scopes: frozenset[str] = EVERYDAY
    limits: KeyLimits = UNLIMITED
    expires: datetime | None = None
    disabled: bool = False

    @property
    def principal(self) -> Principal:
        return Principal(self.name, self.scopes, self.limits, "certificate" if self.certificate else "key")


def new_key() -> str:
    """A key nobody can guess."""
    return _PREFIX + secrets.token_urlsafe(32)


def hash_key(key: str) -> str:
    """What is kept of a key."""
    data = key.encode(errors="backslashreplace")  # a header may be no UTF-8, and no key of ours
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


class KeyRing:
    """The keys of one moment, with the plain ones of the environment beside those of the file."""

    def __init__(self, entries: Iterable[KeyEntry] = (), plain: Iterable[str] = ()) -> None:
        entries = [*entries, *map(_plain, plain)]
        self._by_hash = {entry.hash: entry for entry in entries if entry.hash}
        self._by_certificate = {entry.certificate: entry for entry in entries if entry.certificate}
        self._by_name = {entry.name: entry for entry in entries}

    @property
    def names_certificates(self) -> bool:
        """Whether only the certificates that are named may come in."""
        return bool(self._by_certificate)

    def find(self, key: str, now: datetime) -> Principal | None:
        """Whose ``key`` is.

        Raises:
            Unauthorized: It is known and may not be used any more.
        """
        entry = self._by_hash.get(hash_key(key))
        return None if entry is None else _usable(entry, now)

    def find_certificate(self, names: Iterable[str], now: datetime) -> Principal | None:
        """Whose certificate it is that has these names.

        Raises:
            Unauthorized: It is known and may not be used any more.
        """
        for name in names:
            if (entry := self._by_certificate.get(name)) is not None:
                return _usable(entry, now)
        return None

    def current(self, name: str, now: datetime) -> Principal:
        """The holder called ``name``, as it is now.

        Raises:
            Unauthorized: There is none any more, or it may not come in.
        """
        entry = self._by_name.get(name)
        if entry is None:
            raise Unauthorized("The API key this token was made with is not known any more.")
        return _usable(entry, now)


class KeyStore:
    """The key ring of a file that may change, and of the environment's keys."""

    def __init__(self, path: Path | None = None, plain: Iterable[str] = ()) -> None:
        self._path = path
        self._plain = tuple(plain)
        self.ring = KeyRing([] if path is None else read_entries(path), self._plain)

    @property
    def is_configured(self) -> bool:
        """Whether anybody is asked for a key; a file without keys lets nobody in."""
        return self._path is not None or bool(self._plain)

    def stamp(self) -> Stamp:
        return () if self._path is None else stamp_of(self._path)

    async def reload(self) -> None:
        if self._path is None:
            return
        try:
            entries = await asyncio.to_thread(read_entries, self._path)
        except BadConfig as error:
            log.error("keys_not_reloaded", problem=error.message)  # noqa: TRY400 - the operator's mistake
            return
        self.ring = KeyRing(entries, self._plain)
        log.info("keys_reloaded", entries=len(entries))


# --- the file ----------------------------------------------------------------------------------------


def read_entries(path: Path) -> list[KeyEntry]:
    """The entries of a key file.

    Raises:
        BadConfig: It cannot be read, or a line of it makes no sense.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadConfig(f"The key file {path} cannot be read ({type(error).__name__}).") from error
    return parse_entries(text)


def parse_entries(text: str) -> list[KeyEntry]:
    """The entries in the text of a key file.

    Raises:
        BadConfig: A line makes no sense; it is named by its number, never shown.
    """
    entries: list[KeyEntry] = []
    taken: set[str] = set()
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            entry = _parse(json.loads(line))
            _distinct(entry, taken)
        except (ValueError, RecursionError) as error:
            in_json = isinstance(error, json.JSONDecodeError | RecursionError)
            reason = "it is not JSON" if in_json else str(error)
            raise BadConfig(f"Line {number} of the key file cannot be used: {reason}.") from error
        entries.append(entry)
    return entries


def write_entries(path: Path, entries: Iterable[KeyEntry], *, comments: str = "") -> None:
    """Replace the file in one step; only its owner may read it.

    Raises:
        BadConfig: The entries do not go together, or one makes no sense.
        OSError: It cannot be written.
    """
    lines = [line for line in comments.splitlines() if line.lstrip().startswith("#")]
    text = "".join(f"{line}\n" for line in (*lines, *map(_line, entries)))
    parse_entries(text)  # what is written can be read
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _line(entry: KeyEntry) -> str:
    limits = {name: value for name in sorted(_LIMITS) if (value := getattr(entry.limits, name)) is not None}
    fields: dict[str, Any] = {
        "name": entry.name,
        "hash": entry.hash,
        "certificate": entry.certificate,
        "scopes": sorted(entry.scopes),
        "limits": limits,
        "expires": None if entry.expires is None else entry.expires.isoformat(),
        "disabled": entry.disabled,
    }
    return json.dumps({name: value for name, value in fields.items() if value or name == "scopes"})


def _parse(fields: Any) -> KeyEntry:
    if not isinstance(fields, dict):
        raise ValueError("it is not a JSON object")  # noqa: TRY004 - all mistakes of a line are alike
    _known("a field", fields, _FIELDS)
    name, hashed = fields.get("name"), fields.get("hash", "")
    certificate = fields.get("certificate", "")
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name.startswith("key-"):
        raise ValueError("name must be 1 to 64 letters, digits, dots, dashes or underscores, not key-…")
    if not isinstance(hashed, str) or not isinstance(certificate, str) or bool(hashed) == bool(certificate):
        raise ValueError("it needs either a hash or a certificate, as text")
    if hashed and not _HASH.fullmatch(hashed):
        raise ValueError(f"hash must be sha256: and 64 hexadecimal digits; {command('keys new')} makes one")
    if not isinstance(fields.get("disabled", False), bool):
        raise ValueError("disabled must be true or false")  # noqa: TRY004 - see above
    return KeyEntry(
        name,
        hashed,
        certificate,
        parse_scopes(fields.get("scopes", sorted(EVERYDAY))),
        _parse_limits(fields.get("limits", {})),
        _parse_expiry(fields.get("expires")),
        fields.get("disabled", False),
    )


def parse_scopes(scopes: Any) -> frozenset[str]:
    """A list of scopes, each one known.

    Raises:
        ValueError: It is not.
    """
    if not isinstance(scopes, list) or not all(scope in SCOPES for scope in scopes):
        raise ValueError(f"scopes must be a list of {', '.join(SCOPES)}")
    return frozenset(scopes)


def _parse_limits(limits: Any) -> KeyLimits:
    if not isinstance(limits, dict):
        raise ValueError("limits must be an object")  # noqa: TRY004 - see _parse
    _known("a limit", limits, _LIMITS)
    for name, value in limits.items():
        if type(value) is not int or value < 1:
            raise ValueError(f"limits.{name} must be a whole number of at least 1")
    return KeyLimits(**limits)


def _parse_expiry(value: Any) -> datetime | None:
    if value is None:
        return None
    try:
        moment = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        raise ValueError("expires must be a time such as 2030-12-31T00:00:00+00:00") from None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _known(what: str, fields: Mapping[str, Any], known: set[str]) -> None:
    if unknown := sorted(set(fields) - known):
        raise ValueError(f"{', '.join(unknown)} is not {what}; there is {', '.join(sorted(known))}")


def _distinct(entry: KeyEntry, taken: set[str]) -> None:
    """Note what tells ``entry`` from the others; none of that may be there already."""
    if f"name {entry.name}" in taken:
        raise ValueError(f"there is another entry called {entry.name}")
    if entry.hash in taken or f"certificate {entry.certificate}" in taken:
        raise ValueError("there is another entry with the same key or certificate")
    taken |= {f"name {entry.name}", entry.hash or f"certificate {entry.certificate}"}


def _plain(key: str) -> KeyEntry:
    """A key of the environment: it may do everything."""
    hashed = hash_key(key)
    return KeyEntry(f"key-{hashed.removeprefix('sha256:')[:16]}", hashed, scopes=frozenset(SCOPES))


def _usable(entry: KeyEntry, now: datetime) -> Principal:
    if entry.disabled:
        raise Unauthorized("The API key has been revoked.")
    if entry.expires is not None and entry.expires <= now:
        raise Unauthorized(f"The API key expired at {entry.expires.isoformat()}; ask for a new one.")
    return entry.principal
