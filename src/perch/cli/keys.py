"""``perch keys new|list|revoke|check``: the file of API keys that the gateway reads (PERCH_KEY_STORE)."""

import argparse
import os
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from perch.core.command import command
from perch.errors import BadConfig, Unauthorized
from perch.server.keys import (
    KeyEntry,
    KeyRing,
    hash_key,
    new_key,
    parse_entries,
    parse_scopes,
    read_entries,
    write_entries,
)
from perch.server.principal import EVERYDAY, KeyLimits

_DEFAULT_FILE = ".perch/keys.jsonl"
_DAYS = re.compile(r"(\d{1,5})d")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "what",
        choices=("new", "list", "revoke", "check"),
        help="make a key and print it, this once; list them; revoke one; check the one on standard input",
    )
    parser.add_argument("name", nargs="?", help="who has the key (new, revoke)")
    parser.add_argument(
        "--file", type=Path, help=f"the key file (default: $PERCH_KEY_STORE, else {_DEFAULT_FILE})"
    )
    parser.add_argument(
        "--scopes", metavar="LIST", help="what the key allows, by commas (default: models,tokens,transcribe)"
    )
    parser.add_argument("--sessions", type=int, metavar="N", help="sessions at the same time")
    parser.add_argument("--audio-s-per-min", type=int, metavar="N", help="seconds of audio per minute")
    parser.add_argument("--requests-per-min", type=int, metavar="N", help="requests per minute")
    parser.add_argument("--expires", metavar="WHEN", help="in days (90d), or a date (2030-12-31)")
    parser.add_argument(
        "--certificate",
        metavar="NAME",
        help="let in the client certificate that has this name, instead of a key (new)",
    )


def run(arguments: argparse.Namespace) -> int:
    path = arguments.file or Path(os.environ.get("PERCH_KEY_STORE") or _DEFAULT_FILE)
    verbs: dict[str, Callable[[argparse.Namespace, Path], int]] = {
        "new": _new,
        "list": _list,
        "revoke": _revoke,
        "check": _check,
    }
    try:
        return verbs[arguments.what](arguments, path)
    except (BadConfig, ValueError) as error:
        print(f"perch: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"perch: {path}: {error.strerror}", file=sys.stderr)
        return 1


def _new(arguments: argparse.Namespace, path: Path) -> int:
    key = "" if arguments.certificate else new_key()
    entry = KeyEntry(
        _name(arguments),
        hash_key(key) if key else "",
        arguments.certificate or "",
        EVERYDAY if arguments.scopes is None else parse_scopes(arguments.scopes.split(",")),
        KeyLimits(arguments.sessions, arguments.audio_s_per_min, arguments.requests_per_min),
        None if arguments.expires is None else _moment(arguments.expires, datetime.now(UTC)),
    )
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    write_entries(path, [*parse_entries(text), entry], comments=text)
    if key:
        print(key)
        print(f"Keep it: {path} holds only its hash. A running gateway takes it at once.", file=sys.stderr)
    else:
        print(f"Certificates with the name {arguments.certificate} are now {entry.name}.", file=sys.stderr)
    return 0


def _list(_: argparse.Namespace, path: Path) -> int:
    now = datetime.now(UTC)
    for entry in read_entries(path):
        limits = ", ".join(
            f"{value} {text}"
            for value, text in (
                (entry.limits.sessions, "sessions"),
                (entry.limits.audio_s_per_min, "s of audio/min"),
                (entry.limits.requests_per_min, "requests/min"),
            )
            if value is not None
        )
        print(
            f"{entry.name}\t{_state(entry, now)}\t{','.join(sorted(entry.scopes))}\t{limits or 'no limits'}"
        )
    return 0


def _revoke(arguments: argparse.Namespace, path: Path) -> int:
    name = _name(arguments)
    entries = read_entries(path)
    if not any(entry.name == name for entry in entries):
        raise BadConfig(f"There is no key called {name}; {command('keys list')} shows those there are.")
    revoked = [replace(entry, disabled=True) if entry.name == name else entry for entry in entries]
    write_entries(path, revoked, comments=path.read_text(encoding="utf-8"))
    print(f"{name} is revoked. A running gateway refuses it at once; open sessions go on.", file=sys.stderr)
    return 0


def _check(_: argparse.Namespace, path: Path) -> int:
    """Whose key it is. It comes by standard input, where no process list and no history shows it."""
    ring = KeyRing(read_entries(path))
    try:
        principal = ring.find(sys.stdin.readline().strip(), datetime.now(UTC))
    except Unauthorized as error:
        print(error.message, file=sys.stderr)
        return 1
    if principal is None:
        print("The key is not in the file.", file=sys.stderr)
        return 1
    print(f"{principal.name}\t{','.join(sorted(principal.scopes))}")
    return 0


def _name(arguments: argparse.Namespace) -> str:
    if not arguments.name:
        raise ValueError(f"{command('keys')} {arguments.what} needs the name of who has the key")
    return str(arguments.name)


def _moment(text: str, now: datetime) -> datetime:
    if days := _DAYS.fullmatch(text):
        return now + timedelta(days=int(days[1]))
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"--expires {text}: say 90d, or a date such as 2030-12-31") from None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _state(entry: KeyEntry, now: datetime) -> str:
    if entry.disabled:
        return "revoked"
    if entry.expires is None:
        return "valid"
    return f"{'expired' if entry.expires <= now else 'until'} {entry.expires:%Y-%m-%d}"
