"""A client's session settings → ``SessionConfig``, with every mistake named.

The keys are the same in a ``start`` message and in a query string, where values are text, lists are
separated by commas and nested keys are joined by a dot (``endpointing.stop_history_ms=800``).
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

from perch.core.audio import MAX_CHANNELS, MAX_RATE, MIN_RATE, AudioFormat, Encoding
from perch.core.messages import SessionConfig
from perch.core.speech import Endpointing, HotWords, RecognitionConfig
from perch.errors import BadConfig

ENCODINGS = {
    "pcm16": Encoding.PCM16,
    "pcm_s16le": Encoding.PCM16,
    "linear16": Encoding.PCM16,
    "float32": Encoding.FLOAT32,
    "pcm_f32le": Encoding.FLOAT32,
    "mulaw": Encoding.MULAW,
    "ulaw": Encoding.MULAW,
    "alaw": Encoding.ALAW,
    "opus": Encoding.OPUS,
    "container": Encoding.CONTAINER,
    "none": Encoding.CONTAINER,
}
_MAX_TEXT = 256
_MAX_PHRASES = 1000
_TRUE, _FALSE = {"true", "1", "yes", "on"}, {"false", "0", "no", "off"}


class _Invalid(Exception):
    """A value that cannot be used; says what would do."""


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > _MAX_TEXT or not value.isprintable():
        raise _Invalid(f"must be printable text of at most {_MAX_TEXT} characters")
    return value


def _flag(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in _TRUE | _FALSE:
        return value.lower() in _TRUE
    raise _Invalid("must be true or false")


def _number(value: Any) -> float:
    try:
        number = float(value) if not isinstance(value, bool) else math.nan
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise _Invalid("must be a number")
    return number


def _integer(low: int, high: int) -> Callable[[Any], int]:
    def parse(value: Any) -> int:
        try:
            number = _number(value)
        except _Invalid:
            number = math.nan
        if not number.is_integer() or not low <= number <= high:
            raise _Invalid(f"must be a whole number from {low} to {high}")
        return int(number)

    return parse


def _fraction(value: Any) -> float:
    number = _number(value)
    if not 0 <= number <= 1:
        raise _Invalid("must be a fraction from 0 to 1")
    return number


def _encoding(value: Any) -> Encoding:
    encoding = ENCODINGS.get(value.lower()) if isinstance(value, str) else None
    if encoding is None:
        raise _Invalid(f"must be one of {', '.join(ENCODINGS)}")
    return encoding


def _hotwords(value: Any) -> tuple[HotWords, ...]:
    items = value.split(",") if isinstance(value, str) else value
    if not isinstance(items, list) or len(items) > _MAX_PHRASES:
        raise _Invalid(f'must be a list of at most {_MAX_PHRASES} phrases or {{"phrase", "boost"}} objects')
    return tuple(_hotword(item) for item in items)


def _hotword(item: Any) -> HotWords:
    if isinstance(item, str):
        return HotWords((_text(item.strip()),))
    if isinstance(item, dict) and "phrase" in item and not item.keys() - {"phrase", "boost"}:
        return HotWords((_text(item["phrase"]),), _number(item.get("boost", 0.0)))
    raise _Invalid('items must be phrases or {"phrase": text, "boost": number}')


def _custom(value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or not all(
        isinstance(v, str | int | float | bool) for v in value.values()
    ):
        raise _Invalid("must be an object of texts, numbers and flags")
    return {
        _text(key): str(item) if isinstance(item, str) else str(item).lower() for key, item in value.items()
    }


_AUDIO: dict[str, Callable[[Any], Any]] = {
    "sample_rate": _integer(MIN_RATE, MAX_RATE),
    "encoding": _encoding,
    "channels": _integer(1, MAX_CHANNELS),
    "mix": _flag,
}
_SESSION: dict[str, Callable[[Any], Any]] = {"partials": _flag, "words": _flag}
_RECOGNITION: dict[str, Callable[[Any], Any]] = {
    "language": _text,
    "model": _text,
    "hotwords": _hotwords,
    "punctuation": _flag,
    "profanity_filter": _flag,
    "verbatim": _flag,
    "max_speakers": _integer(1, 64),
    "custom": _custom,
}
_ENDPOINTING: dict[str, Callable[[Any], Any]] = {
    "start_history_ms": _integer(0, 60_000),
    "start_threshold": _fraction,
    "stop_history_ms": _integer(0, 60_000),
    "stop_threshold": _fraction,
    "stop_history_eou_ms": _integer(0, 60_000),
    "stop_threshold_eou": _fraction,
}
KEYS = (*_AUDIO, *_RECOGNITION, *_SESSION, "endpointing")


def parse(raw: Mapping[str, Any], defaults: SessionConfig) -> SessionConfig:
    """The configuration ``raw`` asks for, over ``defaults``.

    Raises:
        BadConfig: Names every unknown key and impossible value at once.
    """
    problems: list[str] = []
    unknown = raw.keys() - set(KEYS)
    if unknown:
        problems.append(f"unknown key{'s' * (len(unknown) > 1)} {', '.join(sorted(map(repr, unknown)))}")
        problems.append(f"the keys are {', '.join(KEYS)}")
    audio = _read(_AUDIO, raw, problems)
    session = _read(_SESSION, raw, problems)
    recognition = _read(_RECOGNITION, raw, problems)
    if "endpointing" in raw:
        recognition["endpointing"] = _endpointing(raw["endpointing"], problems)
    if problems:
        raise BadConfig("; ".join(problems) + ".")
    base = defaults.recognition
    return SessionConfig(
        audio=_replaced(AudioFormat, defaults.audio, audio),
        recognition=_replaced(RecognitionConfig, base, recognition),
        partials=session.get("partials", defaults.partials),
        words=session.get("words", defaults.words),
    )


def parse_query(query: Mapping[str, str], defaults: SessionConfig) -> SessionConfig:
    """As ``parse``, for the parameters of a URL."""
    flat: dict[str, Any] = {}
    for key, value in query.items():
        outer, dot, inner = key.partition(".")
        if dot:
            nested = flat.setdefault(outer, {})
            if isinstance(nested, dict):
                nested[inner] = value
        else:
            flat[key] = value
    return parse(flat, defaults)


def _read(
    parsers: Mapping[str, Callable[[Any], Any]], raw: Mapping[str, Any], problems: list[str]
) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, read in parsers.items():
        if key in raw:
            try:
                values[key] = read(raw[key])
            except _Invalid as invalid:
                problems.append(f"{key} {invalid}")
    return values


def _endpointing(raw: Any, problems: list[str]) -> Endpointing | None:
    if not isinstance(raw, dict):
        problems.append("endpointing must be an object")
        return None
    unknown = raw.keys() - _ENDPOINTING.keys()
    problems.extend(f"unknown key {f'endpointing.{key}'!r}" for key in sorted(map(str, unknown)))
    before = len(problems)
    values = _read(_ENDPOINTING, raw, problems)
    problems[before:] = [f"endpointing.{problem}" for problem in problems[before:]]
    return Endpointing(**values)


def _replaced(kind: type[Any], defaults: Any, values: Mapping[str, Any]) -> Any:
    return kind(**{name: getattr(defaults, name) for name in kind.__slots__} | dict(values))


def describe(config: SessionConfig) -> dict[str, Any]:
    """``config`` as a client may send it back: the ``config`` of ``ready``."""
    recognition, endpointing = config.recognition, config.recognition.endpointing
    described: dict[str, Any] = {
        "sample_rate": config.audio.sample_rate,
        "encoding": config.audio.encoding.value,
        "channels": config.audio.channels,
        "language": recognition.language,
        "model": recognition.model,
        "hotwords": [
            {"phrase": phrase, "boost": hot.boost} for hot in recognition.hotwords for phrase in hot.phrases
        ],
        "punctuation": recognition.punctuation,
        "profanity_filter": recognition.profanity_filter,
        "verbatim": recognition.verbatim,
        "partials": config.partials,
        "words": config.words,
    }
    if config.audio.channels > 1:
        described["mix"] = config.audio.mix
    if recognition.max_speakers is not None:
        described["max_speakers"] = recognition.max_speakers
    if recognition.custom:
        described["custom"] = dict(recognition.custom)
    if endpointing is not None:
        chosen = {name: getattr(endpointing, name) for name in _ENDPOINTING}
        described["endpointing"] = {name: value for name, value in chosen.items() if value is not None}
    return described
