"""Deepgram's live dialect, ``/v1/listen`` (developers.deepgram.com, «Live Audio»; deepgram-python-sdk).

Times are seconds from the start of the stream. Consecutive results cover the audio without gaps: each begins
where the final before it ended.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from perch import errors
from perch.core.audio import Encoding, samples_to_seconds
from perch.core.messages import (
    Audio,
    Command,
    Done,
    Event,
    Failed,
    Final,
    Finalize,
    Finalized,
    Partial,
    Reply,
    SpeechStarted,
    Start,
    Stop,
    UtteranceEnd,
)
from perch.core.speech import Word
from perch.protocols import deepgram_query
from perch.protocols.base import CLOSE_CODES, CLOSE_INTERNAL, Dialect, OneSocketProtocol, Request
from perch.protocols.frames import Writer, json_object

_IDLE_S = 10.0
_VARIANTS = {"idle_timeout": "NET-0001", "bad_audio": "DATA-0000"}
_CONTAINER_MAGIC = (b"OggS", b"\x1aE\xdf\xa3")


class DeepgramProtocol(OneSocketProtocol):
    """One connection; its query is all the configuration there is."""

    confirms_finalize = True
    idle_timeout_s: float | None = _IDLE_S

    def __init__(self, request: Request) -> None:
        self._request = request
        self._wanted = deepgram_query.parse(request)
        self._write = Writer(request)
        self._channels = self._wanted.config.audio.streams
        self._digest = hashlib.sha256()
        self._started = False
        self._stopped = False
        self._covered = [0] * self._channels
        self._finalizing = 0
        self._held: list[Final] = []
        """Finals that came after a ``Finalize``: which is the last of them is known when it is confirmed."""

    def opening(self) -> Sequence[Command]:
        return ()

    def implicit_start(self) -> Start:
        return Start(self._wanted.config, implicit=True)

    # --- client → server -----------------------------------------------------------------------------

    def decode_text(self, frame: str) -> Sequence[Command]:
        match json_object(frame).get("type"):
            case "KeepAlive":
                return ()
            case "Finalize":
                if not self._started or self._stopped:
                    return (Reply(self._write(self._finalized())),)
                self._finalizing += 1
                return (Finalize(),)
            case "CloseStream":
                return self._close()
            case kind:
                raise errors.BadMessage(
                    f"There is no message of type {str(kind)[:80]!r}; send KeepAlive, Finalize or CloseStream."
                )

    def decode_binary(self, frame: bytes) -> Sequence[Command]:
        if not frame:  # how the first clients ended a stream
            return self._close()
        if self._stopped:
            return ()
        self._digest.update(frame)
        return (*self._begin(frame), Audio(frame))

    def _begin(self, first: bytes) -> Sequence[Command]:
        if self._started:
            return ()
        self._started = True
        config = self._wanted.config
        if config.audio.encoding is Encoding.OPUS and first.startswith(_CONTAINER_MAGIC):
            config = replace(config, audio=replace(config.audio, encoding=Encoding.CONTAINER))
        return (Start(config),)

    def _close(self) -> Sequence[Command]:
        if self._stopped:
            return ()
        self._stopped = True
        return (*self._begin(b""), Stop())

    # --- server → client -----------------------------------------------------------------------------

    def encode(self, seq: int, event: Event) -> Sequence[str]:
        del seq
        if isinstance(event, Reply):
            return (event.text,)
        return tuple(self._write(body) for body in self._bodies(event))

    def _bodies(self, event: Event) -> list[dict[str, Any]]:
        match event:
            case Partial():
                return [self._partial(event)]
            case Final() if self._finalizing:
                return self._hold(event)
            case Final():
                return [self._final(event)]
            case Finalized():
                return self._confirm()
            case SpeechStarted() if self._wanted.vad_events:
                channel = [event.channel, self._channels]
                return [{"type": "SpeechStarted", "channel": channel, "timestamp": _seconds(event.at)}]
            case UtteranceEnd() if self._wanted.utterance_end:
                channel = [event.channel, self._channels]
                return [{"type": "UtteranceEnd", "channel": channel, "last_word_end": _seconds(event.at)}]
            case Done():
                return [*self._confirm_all(), self._metadata(event)]
            case Failed():
                return [_error(event)]
            case _:
                return []

    def _partial(self, event: Partial) -> dict[str, Any]:
        words = [{"word": word, "punctuated_word": word} for word in event.text.split()]
        return self._results(event.channel, event.text, event.end, words)

    def _final(self, event: Final, *, from_finalize: bool = False) -> dict[str, Any]:
        words = [_word(word) for word in event.words]
        confidence = event.confidence or 0.0
        body = self._results(event.channel, event.text, event.end, words, confidence)
        self._covered[event.channel] = max(self._covered[event.channel], event.end)
        return body | {"is_final": True, "speech_final": True, "from_finalize": from_finalize}

    def _results(
        self, channel: int, text: str, end: int, words: list[dict[str, Any]], confidence: float = 0.0
    ) -> dict[str, Any]:
        start = self._covered[channel]
        alternative = {"transcript": text, "confidence": round(confidence, 4), "words": words}
        return {
            "type": "Results",
            "channel_index": [channel, self._channels],
            "duration": _seconds(max(0, end - start)),
            "start": _seconds(start),
            "is_final": False,
            "speech_final": False,
            "from_finalize": False,
            "channel": {"alternatives": [alternative]},
            "metadata": {
                "request_id": self._request.stream_id,
                "model_info": self._model_info(),
                "model_uuid": self._request.stream_id,
            },
        }

    def _hold(self, event: Final) -> list[dict[str, Any]]:
        self._held.append(event)
        return [self._final(final) for final in self._release(self._channels)]

    def _release(self, kept: int) -> list[Final]:
        """All that are held but the last ``kept``."""
        released, self._held = self._held[: len(self._held) - kept], self._held[len(self._held) - kept :]
        return released

    def _confirm(self) -> list[dict[str, Any]]:
        self._finalizing -= 1
        held, self._held = self._held, []
        return [self._final(final, from_finalize=True) for final in held] or [self._finalized()]

    def _confirm_all(self) -> list[dict[str, Any]]:
        return [body for _ in range(self._finalizing) for body in self._confirm()]

    def _finalized(self) -> dict[str, Any]:
        """That there was nothing left to say."""
        body = self._results(0, "", self._covered[0], [])
        return body | {"is_final": True, "speech_final": True, "from_finalize": True}

    def _metadata(self, event: Done) -> dict[str, Any]:
        model = self._model()
        return {
            "type": "Metadata",
            "transaction_key": "deprecated",
            "request_id": self._request.stream_id,
            "sha256": self._digest.hexdigest(),
            "created": datetime.fromtimestamp(self._request.now, UTC).isoformat().replace("+00:00", "Z"),
            "duration": _seconds(event.audio),
            "channels": self._channels,
            "models": [model],
            "model_info": {model: self._model_info()},
        }

    def _model(self) -> str:
        return self._wanted.config.recognition.model or self._request.backend.model

    def _model_info(self) -> dict[str, str]:
        return {"name": self._model(), "version": "", "arch": self._request.backend.kind}

    def close_code(self, error: errors.PerchError) -> int:
        return CLOSE_INTERNAL if error.code == "idle_timeout" else CLOSE_CODES.get(error.code, CLOSE_INTERNAL)


def _word(word: Word) -> dict[str, Any]:
    body: dict[str, Any] = {
        "word": word.text.lower().strip(".,;:!?"),
        "start": _seconds(word.start),
        "end": _seconds(word.end),
        "confidence": round(word.confidence or 0.0, 4),
        "punctuated_word": word.text,
    }
    return body if word.speaker is None else body | {"speaker": word.speaker}


def _error(event: Failed) -> dict[str, Any]:
    variant = _VARIANTS.get(event.code, event.code)
    return {"type": "Error", "description": event.message, "message": event.message, "variant": variant}


def _seconds(samples: int) -> float:
    return round(samples_to_seconds(samples), 3)


def _refusal(error: errors.PerchError) -> dict[str, Any]:
    return {"err_code": _REFUSALS.get(error.code, error.code.upper()), "err_msg": error.message}


_REFUSALS = {
    "unauthorized": "INVALID_AUTH",
    "forbidden": "INSUFFICIENT_PERMISSIONS",
    "bad_config": "Bad Request",
    "rate_limited": "TOO_MANY_REQUESTS",
    "at_capacity": "TOO_MANY_REQUESTS",
}

DIALECT = Dialect("deepgram", DeepgramProtocol, _refusal, ("token", "bearer"), id_header="dg-request-id")
