"""Perch's own dialect, ``perch.v1``: JSON text frames with a ``type``, binary frames of audio.

docs/reference/protocol.md is written for its users; tests hold the two together.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from types import MappingProxyType
from typing import Any

from perch.core.audio import samples_to_seconds
from perch.core.messages import (
    Ack,
    Audio,
    Command,
    Done,
    Event,
    Failed,
    Final,
    Finalize,
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
from perch.core.speech import ModelInfo, Word
from perch.errors import BadMessage, PerchError
from perch.protocols import settings
from perch.protocols.base import CLOSE_CODES, CLOSE_INTERNAL, Dialect, Dumps, Request
from perch.protocols.choices import chosen, unchosen

VERSION = "perch.v1"


class NativeProtocol:
    """``perch.v1`` on one connection.

    Args:
        stream_id: Names the stream in every event.
        defaults: What a client gets that chooses nothing.
        query: The session settings in the URL; if there are any, they start the session.
        models: What the engine has, to hold a client's choice against.
        mock: Every event of a mock backend says so.
        dumps: The JSON serialiser.
        trace_id: Told in ``ready`` and ``error``, for a client to report.
    """

    resumable = True
    confirms_finalize = False
    idle_timeout_s: float | None = None
    details: Mapping[str, str] = MappingProxyType({})

    def __init__(
        self,
        stream_id: str,
        *,
        defaults: SessionConfig | None = None,
        query: Mapping[str, str] | None = None,
        models: Sequence[ModelInfo] = (),
        mock: bool = False,
        dumps: Dumps = json.dumps,
        trace_id: str = "",
    ) -> None:
        self._defaults = defaults or SessionConfig()
        self._query = query or {}
        self._models = models
        self._dumps = dumps
        self._common: dict[str, Any] = {"stream_id": stream_id} | ({"mock": True} if mock else {})
        self._trace = {"trace_id": trace_id} if trace_id else {}
        self._words = True
        self._channels = False

    def opening(self) -> Sequence[Command]:
        """A start command, if the URL has settings.

        Raises:
            BadConfig: It has unknown or impossible ones.
        """
        return (self._start({}),) if self._query else ()

    def implicit_start(self) -> Start:
        """What a client gets that sends no start message."""
        return replace(self._start({}), implicit=True)

    def decode_text(self, frame: str) -> Sequence[Command]:
        message = _json_object(frame)
        kind = message.get("type")
        if kind == "start":
            return (self._start(_config_of(message)),)
        read = _COMMANDS.get(kind) if isinstance(kind, str) else None
        if read is None:
            raise BadMessage(f'"type" must be one of start, {", ".join(_COMMANDS)}.')
        return (read(message),)

    def decode_binary(self, frame: bytes) -> Sequence[Command]:
        return (Audio(frame),)

    def encode(self, seq: int, event: Event) -> Sequence[str]:
        body = _EVENTS[type(event)](event)
        if self._channels and isinstance(event, Partial | Final | SpeechStarted | UtteranceEnd):
            body["channel"] = event.channel
        if not self._words and "words" in body:
            body["words"] = []
        if isinstance(event, _TRACED):
            body.update(self._trace)
        body.update(self._common)
        body["seq"] = seq
        return (self._dumps(body),)

    def resumed(self, stream_id: str, config: SessionConfig) -> None:
        self._common["stream_id"] = stream_id
        self._described(config)

    def close_code(self, error: PerchError) -> int:
        return CLOSE_CODES.get(error.code, CLOSE_INTERNAL)

    def _start(self, config: Mapping[str, Any]) -> Start:
        defaults = self._defaults.recognition
        unnamed = replace(self._defaults, recognition=unchosen(defaults))
        asked = settings.parse(config, settings.parse_query(self._query, unnamed))
        wanted = replace(asked, recognition=chosen(asked.recognition, self._models, defaults))
        self._described(wanted)
        return Start(wanted)

    def _described(self, config: SessionConfig) -> None:
        self._words, self._channels = config.words, config.audio.streams > 1


# --- client → server ---------------------------------------------------------------------------------


def _json_object(frame: str) -> dict[str, Any]:
    try:
        message = json.loads(frame)
    except ValueError as error:
        raise BadMessage("A text frame must be a JSON object; audio goes into binary frames.") from error
    except RecursionError as error:
        raise BadMessage("The JSON is nested too deeply.") from error
    if not isinstance(message, dict):
        raise BadMessage('A text frame must be a JSON object with a "type".')
    return message


def _config_of(message: Mapping[str, Any]) -> Mapping[str, Any]:
    _only(message, "config")
    config = message.get("config", {})
    if not isinstance(config, dict):
        raise BadMessage('"config" must be an object.')
    return config


def _bare(command: Command) -> Callable[[Mapping[str, Any]], Command]:
    """A command with no fields."""

    def read(message: Mapping[str, Any]) -> Command:
        _only(message)
        return command

    return read


def _resume(message: Mapping[str, Any]) -> Command:
    _only(message, "token", "last_seq")
    token, last_seq = message.get("token"), message.get("last_seq", 0)
    if not isinstance(token, str) or type(last_seq) is not int or last_seq < 0:
        raise BadMessage('resume needs "token" (text) and "last_seq" (a whole number).')
    return Resume(token, last_seq)


_TRACED = (Ready, Failed)

_COMMANDS: dict[str, Callable[[Mapping[str, Any]], Command]] = {
    "finalize": _bare(Finalize()),
    "stop": _bare(Stop()),
    "ping": _bare(Ping()),
    "resume": _resume,
}


def _only(message: Mapping[str, Any], *allowed: str) -> None:
    unknown = message.keys() - {"type", *allowed}
    if unknown:
        raise BadMessage(f"{message['type']} has unknown keys: {', '.join(sorted(map(repr, unknown)))}.")


# --- server → client ---------------------------------------------------------------------------------


def _ready(event: Ready) -> dict[str, Any]:
    backend, limits = event.backend, event.limits
    model = event.config.recognition.model or backend.model
    abilities = backend.abilities.get(model)
    return {
        "type": "ready",
        "protocol": VERSION,
        "backend": backend.kind,
        "model": model,
        "capabilities": None if abilities is None else asdict(abilities),
        "notice": backend.notice or None,
        "config": settings.describe(event.config),
        "limits": {name: getattr(limits, name) for name in limits.__slots__},
        "resume": _offer(event.resume),
        "audio_s": round(event.received / event.config.audio.sample_rate, 6),
    }


def _offer(offer: ResumeOffer | None) -> dict[str, Any] | None:
    return None if offer is None else {"token": offer.token, "ttl_s": offer.ttl_s}


def _partial(event: Partial) -> dict[str, Any]:
    return {
        "type": "partial",
        "segment": event.segment,
        "text": event.text,
        "is_final": False,
        "start": _seconds(event.start),
        "end": _seconds(event.end),
        "stability": round(event.stability, 3),
    }


def _final(event: Final) -> dict[str, Any]:
    return {
        "type": "final",
        "segment": event.segment,
        "text": event.text,
        "is_final": True,
        "start": _seconds(event.start),
        "end": _seconds(event.end),
        "words": [_word(word) for word in event.words],
        "confidence": _confidence(event.confidence),
    }


def _speech_started(event: SpeechStarted) -> dict[str, Any]:
    return {"type": "speech_started", "segment": event.segment, "at": _seconds(event.at)}


def _utterance_end(event: UtteranceEnd) -> dict[str, Any]:
    return {"type": "utterance_end", "segment": event.segment, "at": _seconds(event.at)}


def _ack(event: Ack) -> dict[str, Any]:
    return {"type": "ack", "audio_s": _seconds(event.audio)}


def _notice(event: Notice) -> dict[str, Any]:
    described: dict[str, Any] = {"type": "notice", "code": event.code, "message": event.message}
    if event.resume is not None:
        described["resume"] = _offer(event.resume)
    return described


def _pong(_: Pong) -> dict[str, Any]:
    return {"type": "pong"}


def _failed(event: Failed) -> dict[str, Any]:
    return {
        "type": "error",
        "code": event.code,
        "message": event.message,
        "retryable": event.retryable,
        "retry_after_s": event.retry_after_s,
    }


def _done(event: Done) -> dict[str, Any]:
    return {
        "type": "done",
        "audio_s": _seconds(event.audio),
        "segments": event.segments,
        "text": event.text,
    }


def _seconds(samples: int) -> float:
    return round(samples_to_seconds(samples), 3)


def _confidence(confidence: float | None) -> float | None:
    return None if confidence is None else round(confidence, 4)


def _word(word: Word) -> dict[str, Any]:
    described: dict[str, Any] = {
        "word": word.text,
        "start": _seconds(word.start),
        "end": _seconds(word.end),
        "confidence": _confidence(word.confidence),
    }
    if word.speaker is not None:
        described["speaker"] = word.speaker
    return described


_EVENTS: dict[type[Event], Callable[[Any], dict[str, Any]]] = {
    Ready: _ready,
    Partial: _partial,
    Final: _final,
    SpeechStarted: _speech_started,
    UtteranceEnd: _utterance_end,
    Ack: _ack,
    Notice: _notice,
    Pong: _pong,
    Failed: _failed,
    Done: _done,
}


def _open(request: Request) -> NativeProtocol:
    return NativeProtocol(
        request.stream_id,
        defaults=request.defaults,
        query=dict(request.query),
        models=request.models,
        mock=request.mock,
        dumps=request.dumps,
        trace_id=request.trace_id,
    )


def _refusal(error: PerchError) -> Mapping[str, Any]:
    return {
        "error": {
            "code": error.code,
            "message": error.message,
            "retryable": error.retryable,
            "retry_after_s": error.retry_after,
        }
    }


DIALECT = Dialect("native", _open, _refusal, (VERSION,))
