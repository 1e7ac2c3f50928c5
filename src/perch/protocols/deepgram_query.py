"""The parameters of Deepgram's ``/v1/listen``: what they ask for, and what cannot be had.

Unknown ones are ignored, as Deepgram does. What could not be honoured without giving the client something else
than it relies on is refused.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from perch.core.audio import MAX_CHANNELS, MAX_RATE, MIN_RATE, AudioFormat, Encoding
from perch.core.messages import SessionConfig
from perch.core.speech import Endpointing, HotWords, RecognitionConfig
from perch.errors import BadConfig
from perch.protocols.base import Request
from perch.protocols.choices import chosen
from perch.protocols.frames import flag, number, whole

MODELS = ("nova", "enhanced", "base", "whisper", "general", "flux", "phonecall", "meeting")
"""Names of Deepgram's models, which stand for the default one."""
ENCODINGS = {
    "linear16": Encoding.PCM16,
    "mulaw": Encoding.MULAW,
    "alaw": Encoding.ALAW,
    "opus": Encoding.OPUS,
    "ogg-opus": Encoding.CONTAINER,
    "flac": Encoding.CONTAINER,
}
UNSUPPORTED = ("linear32", "amr-nb", "amr-wb", "speex", "g729")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What one connection asks for."""

    config: SessionConfig
    vad_events: bool
    utterance_end: bool


def parse(request: Request) -> Wanted:
    """What the query of ``request`` asks for.

    Raises:
        BadConfig: It cannot be had; says why.
        ModelUnavailable, LanguageUnsupported: There is no such model, or it has not that language.
    """
    query = request.query
    one = dict(query)
    if one.get("callback"):
        raise BadConfig("callback is not supported: read the results on this connection.")
    interim = _flag(one, "interim_results")
    utterance_end = one.get("utterance_end_ms")
    if utterance_end is not None and whole(utterance_end, 1000, 5000) is None:
        raise BadConfig("utterance_end_ms must be from 1000 to 5000.")
    config = SessionConfig(_audio(one), recognition(query, request), partials=interim)
    return Wanted(config, _flag(one, "vad_events"), utterance_end is not None)


def recognition(
    query: Sequence[tuple[str, str]], request: Request, *, live: bool = True
) -> RecognitionConfig:
    """What is asked of the recogniser, live or of a recording."""
    one = dict(query)
    defaults = request.defaults.recognition
    wanted = replace(
        defaults,
        model=one.get("model", ""),
        language=one.get("language", ""),
        punctuation=_flag(one, "punctuate") or _flag(one, "smart_format"),
        verbatim=not (_flag(one, "smart_format") or _flag(one, "numerals")),
        profanity_filter=_flag(one, "profanity_filter"),
        hotwords=defaults.hotwords + _hotwords(query),
        max_speakers=_MAX_SPEAKERS if _flag(one, "diarize") else None,
        endpointing=_endpointing(one, defaults),
    )
    return chosen(wanted, request.models, defaults, elsewhere=MODELS, live=live)


_MAX_SPEAKERS = 8


def _audio(query: Mapping[str, str]) -> AudioFormat:
    name = query.get("encoding", "").lower()
    if name in UNSUPPORTED:
        raise BadConfig(f"encoding={name} is not supported; send {', '.join(ENCODINGS)}, or a WAV as it is.")
    if name and name not in ENCODINGS:
        raise BadConfig(f"There is no encoding {name[:40]!r}; there are {', '.join(ENCODINGS)}.")
    encoding = ENCODINGS.get(name, Encoding.CONTAINER)
    channels = whole(query.get("channels", "1"), 1, MAX_CHANNELS)
    if channels is None:
        raise BadConfig(f"channels must be from 1 to {MAX_CHANNELS}.")
    mix = not _flag(query, "multichannel")
    if encoding is Encoding.CONTAINER:
        return AudioFormat(encoding, channels=channels, mix=mix)
    rate = whole(query.get("sample_rate", _DEFAULT_RATES.get(encoding, "")), MIN_RATE, MAX_RATE)
    if rate is None:
        raise BadConfig(f"encoding={name} needs a sample_rate from {MIN_RATE} to {MAX_RATE}.")
    return AudioFormat(encoding, rate, channels, mix=mix)


_DEFAULT_RATES = {Encoding.OPUS: "48000", Encoding.MULAW: "8000", Encoding.ALAW: "8000"}


def _hotwords(query: Sequence[tuple[str, str]]) -> tuple[HotWords, ...]:
    """``keywords=word:boost`` and ``keyterm=some words``, each as often as wanted."""
    found = []
    for name, value in query:
        if name == "keyterm" and value:
            found.append(HotWords((value,)))
        elif name == "keywords" and value:
            word, _, boost = value.rpartition(":")
            strength = number(boost) if word else None
            found.append(HotWords((value,)) if strength is None else HotWords((word,), strength))
    return tuple(found)


def _endpointing(query: Mapping[str, str], defaults: RecognitionConfig) -> Endpointing | None:
    value = query.get("endpointing")
    if value is None or flag(value) is not None:
        return defaults.endpointing
    silence = whole(value, 0, 60_000)
    if silence is None:
        raise BadConfig("endpointing must be milliseconds of silence, or false.")
    return replace(defaults.endpointing or Endpointing(), stop_history_ms=max(silence, _SHORTEST_SILENCE_MS))


_SHORTEST_SILENCE_MS = 100
"""Deepgram's default of 10 ms means «at once»; engines decide by a window, and cannot by less."""


def _flag(query: Mapping[str, str], name: str) -> bool:
    value = query.get(name)
    if value is None:
        return False
    found = flag(value)
    if found is None:
        if name in {"diarize", "punctuate", "smart_format", "multichannel", "interim_results", "vad_events"}:
            raise BadConfig(f"{name} must be true or false.")
        return False
    return found
