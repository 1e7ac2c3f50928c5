"""AudioCodes' VoiceAI Connect «AC-ASR» dialect, as a telephone platform speaks it to a recogniser."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from perch.core.audio import MAX_RATE, MIN_RATE, AudioFormat, Encoding
from perch.core.messages import (
    Audio,
    Command,
    Done,
    Event,
    Failed,
    Final,
    Partial,
    Ready,
    Reply,
    SessionConfig,
    Start,
    Stop,
)
from perch.core.speech import HotWords
from perch.errors import BadConfig, BadMessage, PerchError
from perch.protocols.base import Dialect, OneSocketProtocol, Request
from perch.protocols.choices import chosen, unchosen
from perch.protocols.frames import Writer, json_object, whole

ENCODINGS = {"LINEAR16": Encoding.PCM16, "MULAW": Encoding.MULAW, "ALAW": Encoding.ALAW}


class AudioCodesProtocol(OneSocketProtocol):
    """One connection: start, audio, stop; then ``end`` behind everything that was recognised."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._write = Writer(request)
        defaults = request.defaults.recognition
        self._config = SessionConfig(recognition=chosen(unchosen(defaults), request.models, defaults))
        self._asked = False

    def opening(self) -> Sequence[Command]:
        return ()

    def implicit_start(self) -> Start:
        return Start(self._config, implicit=True)

    def decode_text(self, frame: str) -> Sequence[Command]:
        message = json_object(frame)
        match message.get("type"):
            case "start":
                self._config = self._configured(message)
                self._asked = True
                return (Start(self._config),)
            case "stop":
                return (Stop(),)
            case kind:
                raise BadMessage(f"There is no message of type {str(kind)[:80]!r}; send start or stop.")

    def decode_binary(self, frame: bytes) -> Sequence[Command]:
        return (Audio(frame),)

    def _configured(self, message: Mapping[str, Any]) -> SessionConfig:
        if message.get("format", "raw") != "raw":
            raise BadConfig("format must be raw.")
        name = str(message.get("encoding", "LINEAR16")).upper()
        if name not in ENCODINGS:
            raise BadConfig(f"There is no encoding {name[:40]!r}; there are {', '.join(ENCODINGS)}.")
        rate = whole(message.get("sampleRateHz", 16_000), MIN_RATE, MAX_RATE)
        if rate is None:
            raise BadConfig(f"sampleRateHz must be from {MIN_RATE} to {MAX_RATE}.")
        defaults = self._request.defaults.recognition
        recognition = replace(
            unchosen(defaults),
            language=str(message.get("language") or ""),
            hotwords=defaults.hotwords + _contexts(message.get("speechContexts")),
        )
        found = chosen(recognition, self._request.models, defaults)
        return SessionConfig(AudioFormat(ENCODINGS[name], rate), found)

    def encode(self, seq: int, event: Event) -> Sequence[str]:
        del seq
        match event:
            case Reply(text):
                return (text,)
            case Ready() if self._asked:
                return (self._write({"type": "started"}),)
            case Partial(text=text) if text:
                return (self._write({"type": "hypothesis", "alternatives": [{"text": text}]}),)
            case Final(text=text) if text:
                said: dict[str, Any] = {"text": text}
                if event.confidence is not None:
                    said["confidence"] = round(event.confidence, 4)
                return (self._write({"type": "recognition", "alternatives": [said]}),)
            case Done():
                return (self._write({"type": "end", "reason": "stop"}),)
            case Failed():
                return (self._write({"type": "error", "reason": f"{event.code}: {event.message}"}),)
            case _:
                return ()


def _contexts(listed: object) -> tuple[HotWords, ...]:
    if not isinstance(listed, list):
        return ()
    return tuple(
        HotWords(tuple(map(str, item["phrases"])))
        for item in listed
        if isinstance(item, dict) and isinstance(item.get("phrases"), list)
    )


def _refusal(error: PerchError) -> dict[str, Any]:
    return {"type": "error", "reason": f"{error.code}: {error.message}"}


DIALECT = Dialect("audiocodes", AudioCodesProtocol, _refusal)
