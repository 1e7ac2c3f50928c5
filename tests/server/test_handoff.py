"""A session as a file: everything comes back, for its owner, once."""

import os
from pathlib import Path

import pytest

from perch.asr.base import StreamState
from perch.core.audio import AudioFormat, Encoding
from perch.core.messages import Ack, Done, Final, Notice, Partial, SessionConfig, SpeechStarted, UtteranceEnd
from perch.core.outbox import SentEvents
from perch.core.session import SessionSnapshot, State
from perch.core.speech import Endpointing, HotWords, RecognitionConfig, Word
from perch.core.transcript import TranscriptState
from perch.server.handoff import Handoff, Unreadable, decode, encode
from perch.server.live import Exported
from perch.server.siblings import Siblings

WORD = Word("ærø\n", 5, 9, 0.9876543, speaker=2)
SESSION = Exported(
    "st_1",
    received=77,
    session=SessionSnapshot(
        State.DRAINING,
        SessionConfig(
            AudioFormat(Encoding.MULAW, 8000),
            RecognitionConfig(
                hotwords=(HotWords(("a", "b"), 2.0),),
                endpointing=Endpointing(stop_history_ms=500),
                custom={"k": "v"},
            ),
            words=False,
        ),
        accepted=160,
        acked=16,
        transcripts=(
            TranscriptState(2, 150, ((0, "one"), (70, "two")), "thr", segment=2, since=151),
            TranscriptState(),
        ),
        following_segment=3,
        sent=SentEvents(
            9,
            1,
            (
                (2, Final(0, "ærø", 5, 9, (WORD,), 0.5, "da-DK")),
                (3, SpeechStarted(1, 10)),
                (4, UtteranceEnd(1, 10)),
                (5, Partial(2, "thr", 1, 2, 0.25)),
                (6, Ack(16)),
                (7, Notice("lagging", "…")),
                (8, Done(160, 2, "one two")),
            ),
        ),
    ),
    streams=(StreamState(150, b"\n\0\1\2\n"), StreamState(0, b"\n\3")),
)


def handoff(folder: Path, ttl_s: float = 30.0) -> Handoff:
    return Handoff(folder / "sessions", ttl_s, Siblings(folder / "run"))


def test_everything_comes_back() -> None:
    assert decode(encode(SESSION)) == SESSION


@pytest.mark.parametrize("data", [b"", b"{}\n", b'{"version": 0}\n', encode(SESSION)[:200], b"\xff\n\n"])
def test_what_is_no_session_is_refused(data: bytes) -> None:
    with pytest.raises(Unreadable):
        decode(data)


async def test_a_session_is_taken_once_and_by_its_owner(tmp_path: Path) -> None:
    files = handoff(tmp_path)
    await files.write("token", "me", SESSION)
    assert files.take("token", "you") is None
    assert files.take("token", "me") == SESSION
    assert files.take("token", "me") is None
    assert list(files.folder.iterdir()) == []


async def test_a_session_nobody_came_back_for_is_removed(tmp_path: Path) -> None:
    files = handoff(tmp_path)
    await files.write("token", "me", SESSION)
    [path] = files.folder.iterdir()
    os.utime(path, (1, 1))
    assert files.take("token", "me") is None
    assert list(files.folder.iterdir()) == []
