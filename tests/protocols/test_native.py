"""The native dialect: frames to commands and events to frames, by values and by fuzzing."""

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateways import check_event
from perch import errors
from perch.core.audio import AudioFormat, Encoding
from perch.core.messages import (
    Ack,
    Audio,
    Backend,
    Done,
    Event,
    Failed,
    Final,
    Finalize,
    Limits,
    Notice,
    Partial,
    Ping,
    Pong,
    Ready,
    Resume,
    ResumeOffer,
    SessionConfig,
    SpeechStarted,
    Start,
    Stop,
    UtteranceEnd,
)
from perch.core.speech import Endpointing, HotWords, RecognitionConfig, Word
from perch.protocols import settings
from perch.protocols.base import CLOSE_CODES
from perch.protocols.native import NativeProtocol


def protocol(**options: Any) -> NativeProtocol:
    return NativeProtocol("st_1", **options)


def started(config: dict[str, Any]) -> SessionConfig:
    [command] = protocol().decode_text(json.dumps({"type": "start", "config": config}))
    assert isinstance(command, Start)
    return command.config


@pytest.mark.parametrize(
    ("frame", "command"),
    [
        ('{"type": "start"}', Start(SessionConfig())),
        ('{"type": "finalize"}', Finalize()),
        ('{"type": "stop"}', Stop()),
        ('{"type": "ping"}', Ping()),
        ('{"type": "resume", "token": "t", "last_seq": 7}', Resume("t", 7)),
    ],
)
def test_each_frame_has_its_command(frame: str, command: object) -> None:
    assert protocol().decode_text(frame) == (command,)


def test_a_binary_frame_is_audio() -> None:
    assert protocol().decode_binary(b"ab") == (Audio(b"ab"),)


def test_every_setting_is_understood() -> None:
    config = started(
        {
            "sample_rate": 8000, "encoding": "mulaw", "channels": 1, "language": "de-DE", "model": "m",
            "hotwords": ["perch", {"phrase": "riva", "boost": 4}], "partials": False, "words": False,
            "punctuation": True, "profanity_filter": True, "verbatim": False, "max_speakers": 2,
            "custom": {"a": True, "b": 1}, "endpointing": {"stop_history_ms": 500, "stop_threshold": 0.9},
        }
    )  # fmt: skip
    assert config == SessionConfig(
        audio=AudioFormat(Encoding.MULAW, 8000),
        recognition=RecognitionConfig(
            language="de-DE",
            model="m",
            punctuation=True,
            profanity_filter=True,
            verbatim=False,
            hotwords=(HotWords(("perch",)), HotWords(("riva",), 4.0)),
            max_speakers=2,
            endpointing=Endpointing(stop_history_ms=500, stop_threshold=0.9),
            custom={"a": "true", "b": "1"},
        ),
        partials=False,
        words=False,
    )


def test_a_configuration_can_be_sent_back_as_it_was_described() -> None:
    config = started({"hotwords": ["a"], "endpointing": {"start_history_ms": 300}, "encoding": "alaw"})
    assert started(settings.describe(config)) == config


def test_a_query_does_what_a_start_message_does() -> None:
    query = {
        "sample_rate": "8000",
        "encoding": "alaw",
        "hotwords": "a,b",
        "words": "false",
        "endpointing.stop_history_ms": "800",
    }
    [opening] = protocol(query=query).opening()
    assert isinstance(opening, Start)
    assert opening.config == started(
        {
            "sample_rate": 8000,
            "encoding": "alaw",
            "hotwords": ["a", "b"],
            "words": False,
            "endpointing": {"stop_history_ms": 800},
        }
    )


def test_no_query_starts_nothing() -> None:
    assert protocol().opening() == ()


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        ({"rate": 1}, "unknown key 'rate'"),
        ({"rate": 1, "lang": "x"}, "unknown keys 'lang', 'rate'"),
        ({"sample_rate": 7999}, "8000 to 48000"),
        ({"sample_rate": "x"}, "whole number"),
        ({"sample_rate": True}, "whole number"),
        ({"encoding": "mp3"}, "one of pcm16"),
        ({"channels": 9}, "channels must be a whole number from 1 to 8"),
        ({"language": 5}, "printable text"),
        ({"hotwords": [1]}, "hotwords"),
        ({"endpointing": {"x": 1}}, "endpointing.x"),
        ({"endpointing": {"stop_threshold": 2}}, "endpointing.stop_threshold must be a fraction"),
        ({"endpointing": 3}, "must be an object"),
        ({"partials": "maybe"}, "true or false"),
    ],
)
def test_what_is_wrong_is_said(config: dict[str, Any], complaint: str) -> None:
    with pytest.raises(errors.BadConfig, match=complaint):
        started(config)


EVENTS: list[Event] = [
    Ready(Backend("engine", "m", "mind this"), SessionConfig(), Limits(), ResumeOffer("t", 30.0)),
    Ready(
        Backend("riva"),
        SessionConfig(recognition=RecognitionConfig(hotwords=(HotWords(("a", "b"), 2.0),))),
        Limits(),
    ),
    Partial(0, "hello", 0, 1600, 0.5),
    Final(3, "hello", 160, 8000, (Word("hello", 160, 8000, 0.9, 1), Word("you", 8000, 8010)), None),
    SpeechStarted(0, 16_000),
    UtteranceEnd(0, 16_000),
    Ack(16_000),
    Notice("lagging", "slow"),
    Pong(),
    Failed("engine_full", "full", retryable=True, retry_after_s=1.0),
    Done(16_000, 1, "hello"),
]


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
@pytest.mark.parametrize("mock", [False, True])
def test_every_event_is_in_the_published_schema(event: Event, mock: bool) -> None:
    [frame] = protocol(mock=mock).encode(5, event)
    body = json.loads(frame)
    check_event(body)
    assert (body["seq"], body["stream_id"], body.get("mock", False)) == (5, "st_1", mock)


def test_times_are_seconds() -> None:
    [frame] = protocol().encode(1, EVENTS[3])
    body = json.loads(frame)
    assert (body["start"], body["end"]) == (0.01, 0.5)
    assert body["words"][0] == {"word": "hello", "start": 0.01, "end": 0.5, "confidence": 0.9, "speaker": 1}
    assert body["words"][1]["confidence"] is None


def test_every_error_has_a_close_code_of_the_contract() -> None:
    allowed = {1008, 1009, 1011, 1012, 1013}

    def tree(root: type[errors.PerchError]) -> list[type[errors.PerchError]]:
        return [root, *(leaf for child in root.__subclasses__() for leaf in tree(child))]

    for kind in tree(errors.PerchError):
        assert protocol().close_code(kind("x")) in allowed
    assert CLOSE_CODES.keys() <= {kind.code for kind in tree(errors.PerchError)}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=20,
)
keys = st.sampled_from([*settings.KEYS, "x"])


@given(st.text())
def test_any_text_is_a_command_or_a_documented_error(frame: str) -> None:
    decode(frame)


@given(st.dictionaries(st.sampled_from(["type", "config", "token", "last_seq", "x"]), json_values))
def test_any_object_is_a_command_or_a_documented_error(message: dict[str, Any]) -> None:
    decode(json.dumps(message))


@given(st.dictionaries(keys, json_values))
def test_any_configuration_is_valid_or_a_documented_error(config: dict[str, Any]) -> None:
    decode(json.dumps({"type": "start", "config": config}))


@given(st.dictionaries(keys | st.just("endpointing.stop_history_ms"), st.text()))
def test_any_query_is_valid_or_a_documented_error(query: dict[str, str]) -> None:
    with suppress(errors.ClientFault):
        protocol(query=query).opening()


def decode(frame: str) -> None:
    """Anything but a command or a ``ClientFault`` fails the test."""
    with suppress(errors.ClientFault):
        protocol().decode_text(frame)
