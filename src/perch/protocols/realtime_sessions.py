"""What a session looks like in each of the realtime dialects, and what of it is a ``SessionConfig``."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from perch import errors
from perch.core.audio import MAX_CHANNELS, MAX_RATE, MIN_RATE, AudioFormat, Encoding, samples_to_ms
from perch.core.messages import SessionConfig
from perch.core.speech import Endpointing, HotWords, RecognitionConfig, Word
from perch.protocols.base import Request
from perch.protocols.choices import chosen, unchosen
from perch.protocols.frames import merged, number, section, whole

OPENAI_MODELS = (
    "whisper",
    "gpt-4o-transcribe",
    "gpt-4o-mini-transcribe",
    "gpt-4o",
    "gpt-realtime",
    "gpt-transcribe",
)
"""Names that OpenAI's clients send because they must name one: they stand for the default model."""
_MAX_SPEAKERS = 64


class EmptyCommit(errors.BadMessage):
    code: ClassVar[str] = "input_audio_buffer_commit_empty"


@dataclass(frozen=True, slots=True)
class Shape:
    """One service's names and session object."""

    created: str
    session_updated: str
    item_events: tuple[str, ...]
    session: Callable[[Request], dict[str, Any]]
    config: Callable[[Mapping[str, Any], Request], SessionConfig]

    def updated(self, session: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
        """``session`` with what a client changes; what is not known is kept and given back."""
        kept = {
            key: session[key] for key in ("id", "object", "client_secret", "expires_at") if key in session
        }
        return merged(session, change) | kept


def error_body(code: str, message: str, event_id: str | None) -> dict[str, Any]:
    kind = "invalid_request_error" if code in _CLIENT_FAULTS else "server_error"
    return {"type": kind, "code": code, "message": message, "param": None, "event_id": event_id}


_CLIENT_FAULTS = {
    "bad_message",
    "bad_config",
    "bad_audio",
    "message_too_big",
    "unauthorized",
    "forbidden",
    "origin_refused",
    "language_unsupported",
    "model_unavailable",
    "session_too_long",
    "idle_timeout",
    EmptyCommit.code,
}


def ends_turns(session: Mapping[str, Any]) -> bool:
    """Whether the server ends turns, or the client by its commits."""
    source = section(session, "audio", "input") if "audio" in session else session
    return source.get("turn_detection") is not None


def nim_word(word: Word) -> dict[str, Any]:
    """Times are milliseconds, and no field may be null: NVIDIA's client formats them all as numbers."""
    return {
        "word": word.text,
        "start_time": samples_to_ms(word.start),
        "end_time": samples_to_ms(word.end),
        "confidence": 0.0 if word.confidence is None else round(word.confidence, 4),
        "speaker_tag": word.speaker or 0,
    }


# --- NIM -------------------------------------------------------------------------------------------------


def nim_session(request: Request) -> dict[str, Any]:
    """The session object, with a model that exists: the client sends it back as it is."""
    return {
        "id": request.new_id("sess_"),
        "object": "realtime.transcription_session",
        "modalities": ["text"],
        "input_audio_format": "pcm16",
        "input_audio_transcription": {
            "language": _offered_language(request),
            "model": _offered_model(request),
            "prompt": "",
        },
        "input_audio_params": {"sample_rate_hz": 16_000, "num_channels": 1},
        "recognition_config": {
            "max_alternatives": 1,
            "enable_automatic_punctuation": request.defaults.recognition.punctuation,
            "enable_word_time_offsets": False,
            "enable_profanity_filter": False,
            "enable_verbatim_transcripts": False,
        },
        "speaker_diarization": {"enable_speaker_diarization": False, "max_speaker_count": 8},
        "word_boosting": {"enable_word_boosting": False, "word_boosting_list": []},
        "endpointing_config": dict.fromkeys(_ENDPOINTING, 0),
        "client_secret": None,
    }


_ENDPOINTING = {
    "start_history": "start_history_ms",
    "start_threshold": "start_threshold",
    "stop_history": "stop_history_ms",
    "stop_threshold": "stop_threshold",
    "stop_history_eou": "stop_history_eou_ms",
    "stop_threshold_eou": "stop_threshold_eou",
}


def _nim_config(session: Mapping[str, Any], request: Request) -> SessionConfig:
    wanted = section(session, "recognition_config")
    transcription = section(session, "input_audio_transcription")
    diarization = section(session, "speaker_diarization")
    speakers = whole(diarization.get("max_speaker_count"), 1, _MAX_SPEAKERS)
    recognition = replace(
        request.defaults.recognition,
        language=_named(transcription.get("language"), _offered_language(request)),
        model=_named(transcription.get("model"), _offered_model(request)),
        punctuation=wanted.get("enable_automatic_punctuation") is True,
        profanity_filter=wanted.get("enable_profanity_filter") is True,
        verbatim=wanted.get("enable_verbatim_transcripts") is True,
        hotwords=_nim_hotwords(section(session, "word_boosting")),
        max_speakers=speakers if diarization.get("enable_speaker_diarization") is True else None,
        endpointing=_nim_endpointing(section(session, "endpointing_config")),
        custom=_custom(session.get("custom_configuration") or wanted.get("custom_configuration")),
    )
    found = chosen(recognition, request.models, request.defaults.recognition)
    return SessionConfig(_nim_audio(session), found)


def _nim_audio(session: Mapping[str, Any]) -> AudioFormat:
    params = section(session, "input_audio_params")
    kind = session.get("input_audio_format")
    if kind == "none":
        return AudioFormat(Encoding.CONTAINER, mix=True)
    if kind != "pcm16":
        raise errors.BadConfig(
            "input_audio_format must be pcm16, or none for a WAV, Ogg or FLAC file as it is."
        )
    rate = whole(params.get("sample_rate_hz", 16_000), MIN_RATE, MAX_RATE)
    channels = whole(params.get("num_channels", 1), 1, MAX_CHANNELS)
    if rate is None or channels is None:
        raise errors.BadConfig(
            f"input_audio_params: sample_rate_hz must be from {MIN_RATE} to {MAX_RATE}, "
            f"num_channels from 1 to {MAX_CHANNELS}."
        )
    return AudioFormat(Encoding.PCM16, rate, channels, mix=True)


def _nim_hotwords(boosting: Mapping[str, Any]) -> tuple[HotWords, ...]:
    listed = boosting.get("word_boosting_list")
    if boosting.get("enable_word_boosting") is not True or not isinstance(listed, list):
        return ()
    return tuple(
        HotWords(tuple(map(str, entry["phrases"])), number(entry.get("boost")) or 0.0)
        for entry in listed
        if isinstance(entry, dict) and isinstance(entry.get("phrases"), list)
    )


def _nim_endpointing(values: Mapping[str, Any]) -> Endpointing | None:
    """Zero, less than zero and nothing at all mean the engine's own value."""
    given: dict[str, Any] = {}
    for theirs, ours in _ENDPOINTING.items():
        value = number(values.get(theirs))
        if value is not None and value > 0:
            given[ours] = value if "threshold" in ours else round(value)
    return Endpointing(**given) if given else None


def _custom(value: object) -> dict[str, str]:
    """An object, or text like ``key:value,key:value``."""
    if isinstance(value, dict):
        return {str(key): str(item) for key, item in value.items()}
    if not isinstance(value, str):
        return {}
    pairs = [item.partition(":") for item in value.split(",")]
    return {key.strip(): item.strip() for key, colon, item in pairs if colon and key.strip()}


# --- OpenAI ----------------------------------------------------------------------------------------------

_SERVER_VAD = {"type": "server_vad", "threshold": 0.5, "prefix_padding_ms": 300, "silence_duration_ms": 500}
_LIFE_S = 3600


def ga_session(request: Request) -> dict[str, Any]:
    return {
        "type": "transcription",
        "id": request.new_id("sess_"),
        "object": "realtime.transcription_session",
        "audio": {
            "input": {
                "format": {"type": "audio/pcm", "rate": 24_000},
                "noise_reduction": None,
                "transcription": {"model": _default_model(request), "language": None, "prompt": ""},
                "turn_detection": dict(_SERVER_VAD),
            }
        },
        "include": None,
        "expires_at": round(request.now) + _LIFE_S,
    }


def beta_session(request: Request) -> dict[str, Any]:
    return {
        "id": request.new_id("sess_"),
        "object": "realtime.transcription_session",
        "modalities": ["text"],
        "input_audio_format": "pcm16",
        "input_audio_transcription": {"model": _default_model(request), "language": None, "prompt": ""},
        "input_audio_noise_reduction": None,
        "turn_detection": dict(_SERVER_VAD),
        "include": None,
        "expires_at": round(request.now) + _LIFE_S,
        "client_secret": None,
    }


def _default_model(request: Request) -> str:
    named = dict(request.query).get("model", "")
    return named or _offered_model(request)


def _offered_model(request: Request) -> str:
    return _of_nobodys_wish(request).model or (request.models[0].name if request.models else "")


def _offered_language(request: Request) -> str:
    return _of_nobodys_wish(request).language or request.defaults.recognition.language


def _of_nobodys_wish(request: Request) -> RecognitionConfig:
    defaults = request.defaults.recognition
    return chosen(unchosen(defaults), request.models, defaults)


def _named(value: object, offered: str) -> str:
    """What a client names; not what it was offered and has sent back as it was."""
    named = _text(value)
    return "" if named == offered else named


def _ga_config(session: Mapping[str, Any], request: Request) -> SessionConfig:
    source = section(session, "audio", "input")
    form = section(source, "format")
    kind, rate = form.get("type", "audio/pcm"), form.get("rate")
    return _openai_config(
        AudioFormat(*_ga_format(kind, rate)),
        section(source, "transcription"),
        source.get("turn_detection"),
        request,
    )


def _ga_format(kind: object, rate: object) -> tuple[Encoding, int]:
    if kind == "audio/pcm":
        hertz = whole(24_000 if rate is None else rate, MIN_RATE, MAX_RATE)
        if hertz is None:
            raise errors.BadConfig(f"audio.input.format.rate must be from {MIN_RATE} to {MAX_RATE}.")
        return Encoding.PCM16, hertz
    if kind in {"audio/pcmu", "audio/pcma"}:
        return (Encoding.MULAW if kind == "audio/pcmu" else Encoding.ALAW), 8_000
    raise errors.BadConfig("audio.input.format.type must be audio/pcm, audio/pcmu or audio/pcma.")


_BETA_FORMATS = {
    "pcm16": (Encoding.PCM16, 24_000),
    "g711_ulaw": (Encoding.MULAW, 8_000),
    "g711_alaw": (Encoding.ALAW, 8_000),
}


def _beta_config(session: Mapping[str, Any], request: Request) -> SessionConfig:
    kind = session.get("input_audio_format")
    known = _BETA_FORMATS.get(kind) if isinstance(kind, str) else None
    if known is None:
        raise errors.BadConfig(f"input_audio_format must be one of {', '.join(_BETA_FORMATS)}.")
    transcription = section(session, "input_audio_transcription")
    return _openai_config(AudioFormat(*known), transcription, session.get("turn_detection"), request)


def _openai_config(
    audio: AudioFormat, transcription: Mapping[str, Any], turns: object, request: Request
) -> SessionConfig:
    defaults = request.defaults.recognition
    languages = transcription.get("languages")
    first = languages[0] if isinstance(languages, list) and languages else None
    recognition = replace(
        defaults,
        language=_text(transcription.get("language")) or _text(first),
        model=_named(transcription.get("model"), _offered_model(request)),
        hotwords=defaults.hotwords + _keywords(transcription),
        endpointing=_turn_endpointing(turns, defaults),
    )
    return SessionConfig(audio, chosen(recognition, request.models, defaults, elsewhere=OPENAI_MODELS))


def _keywords(transcription: Mapping[str, Any]) -> tuple[HotWords, ...]:
    words = transcription.get("keywords")
    phrases = tuple(str(word) for word in words if word) if isinstance(words, list) else ()
    return (HotWords(phrases),) if phrases else ()


def _turn_endpointing(turns: object, defaults: RecognitionConfig) -> Endpointing | None:
    """``silence_duration_ms`` is Riva's ``stop_history``; the threshold of another model's VAD means nothing here."""
    silence = whole(turns.get("silence_duration_ms"), 100, 60_000) if isinstance(turns, dict) else None
    if silence is None or silence == _SERVER_VAD["silence_duration_ms"]:
        return defaults.endpointing
    return replace(defaults.endpointing or Endpointing(), stop_history_ms=silence)


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


NIM = Shape("", "transcription_session.updated", (), nim_session, _nim_config)
OPENAI_GA = Shape(
    "session.created",
    "session.updated",
    ("conversation.item.added", "conversation.item.done"),
    ga_session,
    _ga_config,
)
OPENAI_BETA = Shape(
    "transcription_session.created",
    "transcription_session.updated",
    ("conversation.item.created",),
    beta_session,
    _beta_config,
)
