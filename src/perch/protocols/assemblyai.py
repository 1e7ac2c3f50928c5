"""AssemblyAI's streaming dialect, version 3 (``/v3/ws``; assemblyai-python-sdk, ``assemblyai/streaming/v3``).

A turn is an utterance. With ``format_turns`` its end is said twice, as the service does: as heard, then
formatted; here both have the same text. Times of words are milliseconds.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from perch.core.audio import MAX_RATE, MIN_RATE, AudioFormat, Encoding, samples_to_ms, samples_to_seconds
from perch.core.messages import (
    Audio,
    Command,
    Done,
    Event,
    Failed,
    Final,
    Finalize,
    Partial,
    Reply,
    SessionConfig,
    SpeechStarted,
    Start,
    Stop,
)
from perch.core.speech import Endpointing, HotWords, Word
from perch.errors import BadConfig, BadMessage, PerchError
from perch.protocols.base import Dialect, OneSocketProtocol, Request
from perch.protocols.choices import chosen
from perch.protocols.frames import Writer, flag, json_object, number, whole

MODELS = ("universal", "universal-streaming", "u3", "best", "slam", "whisper")
ENCODINGS = {
    "pcm_s16le": Encoding.PCM16,
    "pcm_mulaw": Encoding.MULAW,
    "opus": Encoding.OPUS,
    "ogg_opus": Encoding.CONTAINER,
    "aac": Encoding.CONTAINER,
}
CLOSE_CODES = {
    "unauthorized": 4001,
    "forbidden": 4001,
    "rate_limited": 4029,
    "bad_message": 3006,
    "bad_config": 3006,
    "bad_audio": 3006,
    "language_unsupported": 3006,
    "model_unavailable": 3006,
    "lag_exceeded": 3007,
    "session_too_long": 3008,
    "at_capacity": 3009,
    "engine_full": 3009,
    "going_away": 1012,
}
"""Close code by error code; anything else is 3005, a session that broke."""
_BROKEN = 3005


class AssemblyAIProtocol(OneSocketProtocol):
    """One connection."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._write = Writer(request)
        query = dict(request.query)
        self._format_turns = flag(query.get("format_turns")) or False
        self._config = _config(query, request)
        inactive = number(query.get("inactivity_timeout"))
        if inactive is not None and inactive > 0:
            self.idle_timeout_s = inactive
        self._started = False
        self._stopped = False
        self._turn = 0
        self._rest = b""

    def opening(self) -> Sequence[Command]:
        expires = round(self._request.now + self._request.limits.max_session_s)
        return (self._reply({"type": "Begin", "id": self._request.stream_id, "expires_at": expires}),)

    def implicit_start(self) -> Start:
        return Start(self._config, implicit=True)

    # --- client → server -----------------------------------------------------------------------------

    def decode_text(self, frame: str) -> Sequence[Command]:
        message = json_object(frame)
        match message.get("type"):
            case "Terminate":
                return self._terminate()
            case "ForceEndpoint":
                return (Finalize(),) if self._started and not self._stopped else ()
            case "KeepAlive":
                return ()
            case "UpdateConfiguration":
                self._format_turns = flag(message.get("format_turns", self._format_turns)) or False
                return ()
            case kind:
                raise BadMessage(
                    f"There is no message of type {str(kind)[:80]!r}; send Terminate, ForceEndpoint, KeepAlive "
                    "or UpdateConfiguration."
                )

    def decode_binary(self, frame: bytes) -> Sequence[Command]:
        if self._stopped:
            return ()
        if self._config.audio.encoding is Encoding.PCM16:
            data = self._rest + frame
            whole_bytes = len(data) - len(data) % 2
            frame, self._rest = data[:whole_bytes], data[whole_bytes:]
        return (*self._begin(), Audio(frame))

    def _begin(self) -> Sequence[Command]:
        if self._started:
            return ()
        self._started = True
        return (Start(self._config),)

    def _terminate(self) -> Sequence[Command]:
        if self._stopped:
            return ()
        self._stopped = True
        return (*self._begin(), Stop())

    # --- server → client -----------------------------------------------------------------------------

    def encode(self, seq: int, event: Event) -> Sequence[str]:
        del seq
        match event:
            case Reply(text):
                return (text,)
            case SpeechStarted():
                return (self._write({"type": "SpeechStarted", "timestamp": samples_to_ms(event.at)}),)
            case Partial():
                return (self._write(self._turn_of(event.text, (), ended=False)),)
            case Final():
                return self._ended(event)
            case Done():
                return (self._write(_termination(event)),)
            case Failed():
                error = {"type": "Error", "error_code": CLOSE_CODES.get(event.code, _BROKEN)}
                return (self._write(error | {"error": f"{event.code}: {event.message}"}),)
            case _:
                return ()

    def _ended(self, final: Final) -> Sequence[str]:
        as_heard = self._turn_of(final.text, final.words, ended=True)
        frames = [as_heard]
        if self._format_turns:
            frames.append(as_heard | {"turn_is_formatted": True})
        self._turn += 1
        return tuple(self._write(frame) for frame in frames)

    def _turn_of(self, text: str, words: Sequence[Word], *, ended: bool) -> dict[str, Any]:
        return {
            "type": "Turn",
            "turn_order": self._turn,
            "turn_is_formatted": False,
            "end_of_turn": ended,
            "transcript": text,
            "utterance": text if ended else "",
            "end_of_turn_confidence": 1.0 if ended else 0.0,
            "words": [_word(word) for word in words],
        }

    def _reply(self, body: dict[str, Any]) -> Reply:
        return Reply(self._write(body))

    def close_code(self, error: PerchError) -> int:
        return CLOSE_CODES.get(error.code, _BROKEN)


def _config(query: dict[str, str], request: Request) -> SessionConfig:
    name = query.get("encoding", "pcm_s16le")
    if name not in ENCODINGS:
        raise BadConfig(f"There is no encoding {name[:40]!r}; there are {', '.join(ENCODINGS)}.")
    rate = whole(query.get("sample_rate", "16000"), MIN_RATE, MAX_RATE)
    if rate is None:
        raise BadConfig(f"sample_rate must be from {MIN_RATE} to {MAX_RATE}.")
    defaults = request.defaults.recognition
    speakers = flag(query.get("speaker_labels"))
    recognition = replace(
        defaults,
        model=query.get("speech_model", ""),
        language=_language(query),
        punctuation=flag(query.get("format_turns")) or False,
        profanity_filter=flag(query.get("filter_profanity")) or False,
        hotwords=defaults.hotwords + _keyterms(query.get("keyterms_prompt", "")),
        max_speakers=8 if speakers else None,
        endpointing=_endpointing(query, defaults.endpointing),
    )
    partials = flag(query.get("include_partial_turns", "true"))
    return SessionConfig(
        AudioFormat(ENCODINGS[name], rate),
        chosen(recognition, request.models, defaults, elsewhere=MODELS),
        partials=partials is not False,
    )


def _language(query: dict[str, str]) -> str:
    codes = query.get("language_codes", "")
    listed = _json_list(codes) if codes.startswith("[") else codes.split(",")
    return query.get("language_code") or (listed[0].strip() if listed else "")


def _keyterms(text: str) -> tuple[HotWords, ...]:
    phrases = tuple(_json_list(text)) if text else ()
    return (HotWords(phrases),) if phrases else ()


def _json_list(text: str) -> list[str]:
    try:
        listed = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadConfig("keyterms_prompt and language_codes must be JSON lists of texts.") from error
    if not isinstance(listed, list):
        raise BadConfig("keyterms_prompt and language_codes must be JSON lists of texts.")
    return [str(item) for item in listed]


def _endpointing(query: dict[str, str], defaults: Endpointing | None) -> Endpointing | None:
    names = ("min_turn_silence", "min_end_of_turn_silence_when_confident")
    silence = next((found for name in names if (found := whole(query.get(name), 100, 60_000))), None)
    return defaults if silence is None else replace(defaults or Endpointing(), stop_history_ms=silence)


def _word(word: Word) -> dict[str, Any]:
    return {
        "text": word.text,
        "start": samples_to_ms(word.start),
        "end": samples_to_ms(word.end),
        "confidence": round(word.confidence or 0.0, 4),
        "word_is_final": True,
    }


def _termination(event: Done) -> dict[str, Any]:
    """A codec has no clock: how long the session lasted is told by its audio."""
    seconds = round(samples_to_seconds(event.audio), 3)
    body = {"type": "Termination", "audio_duration_seconds": seconds}
    return body | {"session_duration_seconds": seconds}


def _refusal(error: PerchError) -> dict[str, Any]:
    return {"error": error.message, "error_code": error.code}


DIALECT = Dialect("assemblyai", AssemblyAIProtocol, _refusal)
