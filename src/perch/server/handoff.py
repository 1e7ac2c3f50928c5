"""Sessions on their way from one gateway process of this machine to another.

A session in transit is one file in ``state_dir/sessions``, readable by its owner only and named by a digest
of token and principal: nobody else's token finds it. Renaming the file is the claim, so one process gets it.
While its process lives, a session is in no file; ``siblings.py`` asks for it.
"""

import asyncio
import hashlib
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson
import structlog
from pydantic import TypeAdapter, ValidationError

from perch.asr.base import StreamState
from perch.core.messages import (
    Ack,
    Done,
    Event,
    Final,
    Notice,
    Partial,
    SessionConfig,
    SpeechStarted,
    UtteranceEnd,
)
from perch.core.outbox import SentEvents
from perch.core.session import SessionSnapshot, State
from perch.core.transcript import TranscriptState
from perch.server.live import Exported
from perch.server.siblings import Siblings

log = structlog.get_logger(__name__)

VERSION = 2
_CONFIG = TypeAdapter(SessionConfig)
_TRANSCRIPT = TypeAdapter(TranscriptState)
_EVENTS: Mapping[str, TypeAdapter[Any]] = {
    kind.__name__: TypeAdapter(kind)
    for kind in (Ack, Done, Final, Notice, Partial, SpeechStarted, UtteranceEnd)
}


class Unreadable(Exception):
    """The file is not a session, or one of another version of this program."""


@dataclass(frozen=True, slots=True)
class Handoff:
    """Where sessions are handed over, and whom to ask for one that is nowhere."""

    folder: Path
    ttl_s: float
    siblings: Siblings

    async def fetch(self, token: str, principal: str) -> Exported | None:
        """A session of another process, which has let go of it; None if there is none."""
        found = self.take(token, principal)
        if found is None:
            await self.siblings.ask(token, principal)
            found = self.take(token, principal)
        return found

    async def write(self, token: str, principal: str, exported: Exported) -> None:
        """Let another process have the session.

        Raises:
            OSError: The file cannot be written.
        """
        await asyncio.to_thread(self._write, _name(token, principal), exported)

    def take(self, token: str, principal: str) -> Exported | None:
        """The session of ``token``, if it is there and this is the process that gets it."""
        self.sweep()
        path = self.folder / _name(token, principal)
        claimed = path.with_suffix(f".claimed-{os.getpid()}")
        try:
            path.rename(claimed)
            data = claimed.read_bytes()
            claimed.unlink()
            return decode(data)
        except FileNotFoundError:
            return None
        except (OSError, Unreadable) as error:
            log.warning("session_lost", problem=str(error) or type(error).__name__)
            return None

    def sweep(self) -> None:
        """Remove what nobody came back for."""
        oldest = time.time() - self.ttl_s
        with suppress(OSError):
            for path in self.folder.iterdir():
                if path.stat().st_mtime < oldest:
                    path.unlink(missing_ok=True)

    def _write(self, name: str, exported: Exported) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        unfinished = self.folder / f"{name}.new-{os.getpid()}"
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(encode(exported))
            unfinished.rename(self.folder / name)
        except OSError:
            unfinished.unlink(missing_ok=True)
            raise


def encode(exported: Exported) -> bytes:
    """A line of JSON, then the audio."""
    session, sent = exported.session, exported.session.sent
    header = {
        "version": VERSION,
        "stream_id": exported.stream_id,
        "received": exported.received,
        "streams": [[stream.start, len(stream.audio)] for stream in exported.streams],
        "state": session.state.name,
        "config": asdict(session.config),
        "accepted": session.accepted,
        "acked": session.acked,
        "transcripts": [asdict(transcript) for transcript in session.transcripts],
        "following_segment": session.following_segment,
        "seq": sent.seq,
        "forgotten": sent.forgotten,
        "events": [[seq, type(event).__name__, asdict(event)] for seq, event in sent.events],
    }
    return orjson.dumps(header) + b"\n" + b"".join(stream.audio for stream in exported.streams)


def decode(data: bytes) -> Exported:
    """What ``encode`` was given.

    Raises:
        Unreadable: It did not make this.
    """
    line, _, audio = data.partition(b"\n")
    try:
        header = orjson.loads(line)
        if header["version"] != VERSION:
            raise Unreadable
        events = tuple((int(seq), _event(kind, fields)) for seq, kind, fields in header["events"])
        session = SessionSnapshot(
            State[header["state"]],
            _CONFIG.validate_python(header["config"]),
            int(header["accepted"]),
            int(header["acked"]),
            tuple(_TRANSCRIPT.validate_python(transcript) for transcript in header["transcripts"]),
            int(header["following_segment"]),
            SentEvents(int(header["seq"]), int(header["forgotten"]), events),
        )
        streams = tuple(_streams(header["streams"], audio))
        return Exported(str(header["stream_id"]), int(header["received"]), session, streams)
    except (ValueError, KeyError, TypeError, ValidationError) as error:
        raise Unreadable(f"not a session of this version: {type(error).__name__}") from error


def _streams(described: list[list[int]], audio: bytes) -> Iterator[StreamState]:
    position = 0
    for start, size in described:
        yield StreamState(int(start), audio[position : position + size])
        position += size


def _event(kind: str, fields: object) -> Event:
    event: Event = _EVENTS[kind].validate_python(fields)
    return event


def _name(token: str, principal: str) -> str:
    return hashlib.sha256(f"{token}\0{principal}".encode()).hexdigest()
