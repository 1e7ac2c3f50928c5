"""Every dialect against what no client should send: documented errors come out, and bounded frames. (C.6)"""

import base64
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perch.core.messages import (
    Ack,
    Backend,
    Command,
    Done,
    Event,
    Failed,
    Final,
    Finalized,
    Limits,
    Notice,
    Partial,
    Pong,
    Ready,
    Reply,
    SessionConfig,
    SpeechStarted,
    Start,
    UtteranceEnd,
)
from perch.core.speech import ModelInfo, Word
from perch.errors import ClientFault, InternalError
from perch.protocols import assemblyai, audiocodes, deepgram, media_streams, native, realtime, vosk
from perch.protocols.base import Dialect, Request, WireProtocol

DIALECTS = [
    native.DIALECT,
    realtime.NIM,
    realtime.OPENAI_GA,
    realtime.OPENAI_BETA,
    deepgram.DIALECT,
    assemblyai.DIALECT,
    vosk.DIALECT,
    audiocodes.DIALECT,
    media_streams.DIALECT,
]
each = pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
MODELS = (ModelInfo("m", ("en-US",)), ModelInfo("n", ("de-DE", "en-GB")))

NAMES = st.sampled_from(
    [
        "type",
        "session",
        "audio",
        "input",
        "format",
        "rate",
        "turn_detection",
        "transcription",
        "model",
        "language",
        "keywords",
        "languages",
        "config",
        "sample_rate",
        "encoding",
        "channels",
        "start",
        "media",
        "mediaFormat",
        "tracks",
        "track",
        "payload",
        "timestamp",
        "chunk",
        "event",
        "words",
        "phrase_list",
        "max_alternatives",
        "eof",
        "reset",
        "input_audio_format",
        "input_audio_params",
        "recognition_config",
        "word_boosting",
        "word_boosting_list",
        "phrases",
        "boost",
        "endpointing_config",
        "custom_configuration",
        "speechContexts",
        "sampleRateHz",
        "runtime_config",
        "force_eou",
        "event_id",
        "token",
        "last_seq",
        "hotwords",
        "endpointing",
        "mix",
    ]
)
TYPES = st.sampled_from(
    [
        "start",
        "stop",
        "finalize",
        "ping",
        "resume",
        "session.update",
        "transcription_session.update",
        "input_audio_buffer.append",
        "input_audio_buffer.commit",
        "input_audio_buffer.clear",
        "input_audio_buffer.done",
        "KeepAlive",
        "Finalize",
        "CloseStream",
        "Terminate",
        "ForceEndpoint",
        "UpdateConfiguration",
        "media",
        "connected",
        "dtmf",
        "mark",
    ]
)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=12)
    | TYPES
    | st.binary(max_size=30).map(lambda data: base64.b64encode(data).decode())
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=5),
    max_leaves=15,
)
MESSAGES = st.dictionaries(NAMES, VALUES, max_size=6)
FRAMES = st.lists(
    st.one_of(
        st.tuples(TYPES, MESSAGES).map(lambda m: json.dumps({**m[1], "type": m[0], "event": m[0]})),
        MESSAGES.map(json.dumps),
        st.text(max_size=40),
        st.binary(max_size=60),
    ),
    max_size=8,
)
EVENTS: Sequence[Event] = (
    Ready(Backend("engine", "m"), SessionConfig(), Limits()),
    SpeechStarted(0, 1600),
    Partial(0, "hello", 0, 3200),
    Partial(0, "hello there you", 0, 4800),
    Final(0, "Hello there.", 0, 4800, (Word("Hello", 0, 3200), Word("there.", 3200, 4800, 0.5, 1))),
    UtteranceEnd(0, 4800),
    Finalized(4800),
    Ack(16_000),
    Notice("lagging", "late"),
    Pong(),
    Final(1, "", 4800, 4800),
    Finalized(4800),
)
ENDS: Sequence[Event] = (Done(16_000, 1, "Hello there."), Failed("internal_error", "broke", retryable=True))


def request(**fields: Any) -> Request:
    counter = iter(range(10**9))
    return Request("st_1", now=1.0, new_id=lambda prefix: f"{prefix}{next(counter)}", models=MODELS, **fields)


def fed(protocol: WireProtocol, frame: str | bytes) -> Sequence[Command]:
    try:
        if isinstance(frame, str):
            return protocol.decode_text(frame)
        return protocol.decode_binary(frame)
    except ClientFault as error:
        if not error.message or protocol.close_code(error) < 1000:
            raise
        return ()


@each
@settings(max_examples=150)
@given(frames=FRAMES)
def test_any_frames_give_commands_or_a_documented_error(dialect: Dialect, frames: list[str | bytes]) -> None:
    protocol = dialect.open(request())
    commands = [*protocol.opening(), protocol.implicit_start()]
    for frame in frames:
        commands += fed(protocol, frame)
    for command in commands:
        if isinstance(command, Reply):
            assert all(json.loads(text) for text in protocol.encode(1, command))
    said = [text for event in EVENTS for text in _encoded(dialect, protocol, event)]
    said += protocol.encode(99, ENDS[len(frames) % 2])
    for text in said:
        assert isinstance(json.loads(text), dict)


def _encoded(dialect: Dialect, protocol: WireProtocol, event: Event) -> Sequence[str]:
    if isinstance(event, Finalized) and not protocol.confirms_finalize:
        return ()
    if dialect is deepgram.DIALECT and isinstance(event, Finalized):
        return ()  # it is told only of what it asked for
    return protocol.encode(1, event)


@each
@settings(max_examples=150)
@given(
    query=st.lists(
        st.tuples(
            NAMES
            | st.sampled_from(
                [
                    "interim_results",
                    "endpointing",
                    "utterance_end_ms",
                    "multichannel",
                    "punctuate",
                    "diarize",
                    "keyterm",
                    "keywords",
                    "callback",
                    "format_turns",
                    "keyterms_prompt",
                    "language_codes",
                    "inactivity_timeout",
                    "min_turn_silence",
                    "intent",
                ]
            ),
            st.text(max_size=10)
            | st.integers(-10, 10**6).map(str)
            | st.sampled_from(["true", "linear16", "opus", "[", "[]"]),
        ),
        max_size=6,
    )
)
def test_any_query_opens_a_connection_or_is_refused(dialect: Dialect, query: list[tuple[str, str]]) -> None:
    try:
        protocol = dialect.open(request(query=query))
        protocol.opening()
        protocol.implicit_start()
    except ClientFault as error:
        if not dialect.refusal(error):
            raise


@each
def test_every_refusal_has_a_body(dialect: Dialect) -> None:
    assert json.dumps(dialect.refusal(InternalError("broke")))


@each
def test_a_mock_is_named_in_every_frame(dialect: Dialect) -> None:
    protocol = dialect.open(replace(request(), backend=Backend("mock", "mock")))
    replies = [command for command in protocol.opening() if isinstance(command, Reply)]
    for event in (*replies, *EVENTS[:6], ENDS[0]):
        for text in protocol.encode(1, event):
            assert json.loads(text)["mock"] is True


@each
def test_a_language_the_model_does_not_have_is_refused_by_name(dialect: Dialect) -> None:
    """004-30, 004-31."""
    asking = {
        "native": {"type": "start", "config": {"language": "fr", "model": "m"}},
        "audiocodes": {"type": "start", "language": "fr"},
        "media-stream": {"event": "start", "start": {"customParameters": {"language": "fr", "model": "m"}}},
    }
    if dialect.name in asking:
        with pytest.raises(ClientFault, match="English") as refused:
            dialect.open(request()).decode_text(json.dumps(asking[dialect.name]))
        assert refused.value.code == "language_unsupported"


def test_the_operators_own_choice_is_not_questioned() -> None:
    protocol = native.NativeProtocol("st_1", models=MODELS)
    [start] = protocol.decode_text('{"type": "start", "config": {"model": "m"}}')
    assert isinstance(start, Start)
    assert start.config.recognition.model == "m"
