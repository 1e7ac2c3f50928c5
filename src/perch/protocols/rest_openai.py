"""OpenAI's ``POST /v1/audio/transcriptions``: what a request asks for, and the answer in each of its formats.

Source: platform.openai.com API reference «Create transcription»; openai-python ``types/audio``. What Perch
cannot know (log probabilities, compression ratio) is 0, as those fields may not be left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from perch.core.audio import samples_to_seconds
from perch.core.languages import is_open
from perch.core.messages import Final
from perch.core.speech import HotWords, ModelInfo, RecognitionConfig, Word
from perch.errors import BadConfig, PerchError
from perch.protocols.choices import chosen, known_language
from perch.protocols.frames import flag
from perch.protocols.realtime_sessions import OPENAI_MODELS, error_body

FORMATS = ("json", "text", "srt", "verbose_json", "vtt", "diarized_json")
GRANULARITIES = ("word", "segment", "char")
"""The last is ours, as NeMo has it."""
_MAX_SPEAKERS = 8
_MAX_KEYWORDS = 1000


@dataclass(frozen=True, slots=True)
class Wanted:
    """What one request asks for."""

    recognition: RecognitionConfig
    form: str = "json"
    granularities: tuple[str, ...] = ("segment",)
    stream: bool = False
    language: str = ""
    """What is known to be spoken: a client said so, or the model has no other."""


def parse(
    fields: Sequence[tuple[str, str]], defaults: RecognitionConfig, models: Sequence[ModelInfo]
) -> Wanted:
    """What the fields of a form ask for; those that are not known are ignored.

    Raises:
        BadConfig, ModelUnavailable, LanguageUnsupported: It cannot be had.
    """
    one = dict(fields)
    form = one.get("response_format") or "json"
    if form not in FORMATS:
        raise BadConfig(f"response_format must be one of {', '.join(FORMATS)}.")
    granularities = _all(fields, "timestamp_granularities[]") or ("segment",)
    if unknown := set(granularities) - set(GRANULARITIES):
        raise BadConfig(
            f"timestamp_granularities[] has {', '.join(sorted(unknown))}; there are word, segment and char."
        )
    stream = flag(one.get("stream") or "false")
    if stream is None:
        raise BadConfig("stream must be true or false.")
    languages = _all(fields, "language") or _all(fields, "languages[]")
    recognition = replace(
        defaults,
        model=one.get("model") or "",
        language=languages[0] if languages else "",
        character_times="char" in granularities,
        hotwords=defaults.hotwords + _keywords(fields),
        max_speakers=_MAX_SPEAKERS if form == "diarized_json" else defaults.max_speakers,
    )
    found = chosen(recognition, models, defaults, elsewhere=OPENAI_MODELS, live=False)
    is_known = not is_open(recognition.language) or known_language(found, models)
    language = found.language if is_known and not is_open(found.language) else ""
    return Wanted(found, form, granularities, stream, language)


def _all(fields: Sequence[tuple[str, str]], name: str) -> tuple[str, ...]:
    return tuple(value for key, value in fields if key in {name, name.removesuffix("[]")} and value)


def _keywords(fields: Sequence[tuple[str, str]]) -> tuple[HotWords, ...]:
    phrases = _all(fields, "keywords[]")
    if len(phrases) > _MAX_KEYWORDS:
        raise BadConfig(f"keywords[] may have at most {_MAX_KEYWORDS} entries.")
    return (HotWords(phrases),) if phrases else ()


# --- answers ---------------------------------------------------------------------------------------------


def content_type(form: str) -> str:
    return "application/json" if form.endswith("json") else _TEXT_TYPES[form]


_TEXT_TYPES = {"text": "text/plain", "srt": "application/x-subrip", "vtt": "text/vtt"}


def answer(wanted: Wanted, finals: Sequence[Final], samples: int) -> dict[str, Any] | str:
    """The whole answer: an object, or text.

    Raises:
        BadConfig: Speakers or characters were asked for, and the engine told of none.
    """
    text = text_of(finals)
    match wanted.form:
        case "text":
            return text + "\n"
        case "srt":
            return "".join(_subtitles(finals, ","))
        case "vtt":
            return "WEBVTT\n\n" + "".join(_subtitles(finals, ".", numbered=False))
        case "verbose_json":
            return _verbose(wanted, finals, samples)
        case "diarized_json":
            return _diarized(finals, samples)
        case _:
            return {"text": text, "usage": usage(samples)}


def result(finals: Sequence[Final], samples: int) -> dict[str, Any]:
    """What a transcription that answers later has in the end: everything."""
    segments = [
        {
            "id": number,
            "start": _seconds(final.start),
            "end": _seconds(final.end),
            "text": final.text,
            "words": [
                _word(word) | {"confidence": None if word.confidence is None else round(word.confidence, 4)}
                for word in final.words
            ],
            **({"chars": _chars(final.words)} if any(word.characters for word in final.words) else {}),
        }
        for number, final in enumerate(finals)
    ]
    return {"text": text_of(finals), "segments": segments, "usage": usage(samples)}


def text_of(finals: Sequence[Final]) -> str:
    return " ".join(final.text for final in finals if final.text)


def usage(samples: int) -> dict[str, Any]:
    return {"type": "duration", "seconds": round(samples_to_seconds(samples), 3)}


def delta(final: Final, *, first: bool) -> dict[str, Any]:
    """An event of a streamed answer: these words come next."""
    return {"type": "transcript.text.delta", "delta": final.text if first else f" {final.text}"}


def done(finals: Sequence[Final], samples: int) -> dict[str, Any]:
    return {"type": "transcript.text.done", "text": text_of(finals), "usage": usage(samples)}


def refusal(error: PerchError) -> dict[str, Any]:
    body = error_body(error.code, error.message, None)
    del body["event_id"]
    return {"error": body}


def _verbose(wanted: Wanted, finals: Sequence[Final], samples: int) -> dict[str, Any]:
    body: dict[str, Any] = {
        "task": "transcribe",
        "language": _spoken(wanted, finals),
        "duration": round(samples_to_seconds(samples), 3),
        "text": text_of(finals),
        "usage": usage(samples),
    }
    if "segment" in wanted.granularities:
        body["segments"] = [_segment(number, final) for number, final in enumerate(finals)]
    if "word" in wanted.granularities:
        body["words"] = [_word(word) for final in finals for word in final.words]
    if "char" in wanted.granularities:
        body["chars"] = _chars([word for final in finals for word in final.words])
    return body


def _spoken(wanted: Wanted, finals: Sequence[Final]) -> str:
    """What the engine says is spoken, unless it only repeats what nobody asked for; empty if nobody knows."""
    told = next((final.language for final in finals if final.language), "")
    return wanted.language if told in {"", wanted.recognition.language} else told


def _chars(words: Sequence[Word]) -> list[dict[str, Any]]:
    if words and not any(word.characters for word in words):
        raise BadConfig("This model does not say when characters were spoken; ask for word or segment.")
    return [
        {"char": one.text, "start": _seconds(one.start), "end": _seconds(one.end)}
        for word in words
        for one in word.characters
    ]


def _segment(number: int, final: Final) -> dict[str, Any]:
    return {
        "id": number,
        "seek": 0,
        "start": _seconds(final.start),
        "end": _seconds(final.end),
        "text": final.text,
        "tokens": [],
        "temperature": 0.0,
        "avg_logprob": 0.0,
        "compression_ratio": 0.0,
        "no_speech_prob": 0.0,
    }


def _word(word: Word) -> dict[str, Any]:
    return {"word": word.text, "start": _seconds(word.start), "end": _seconds(word.end)}


def _diarized(finals: Sequence[Final], samples: int) -> dict[str, Any]:
    words = [word for final in finals for word in final.words]
    if words and all(word.speaker is None for word in words):
        raise BadConfig("This engine does not tell speakers apart; ask for json or verbose_json.")
    turns: list[list[Word]] = []
    for word in words:
        if turns and turns[-1][-1].speaker == word.speaker:
            turns[-1].append(word)
        else:
            turns.append([word])
    segments = [
        {
            "type": "transcript.text.segment",
            "id": f"seg_{number}",
            "start": _seconds(turn[0].start),
            "end": _seconds(turn[-1].end),
            "speaker": f"speaker_{turn[0].speaker or 0}",
            "text": " ".join(word.text for word in turn),
        }
        for number, turn in enumerate(turns)
    ]
    duration = round(samples_to_seconds(samples), 3)
    return {"task": "transcribe", "duration": duration, "text": text_of(finals), "segments": segments} | {
        "usage": usage(samples)
    }


def _subtitles(finals: Sequence[Final], mark: str, *, numbered: bool = True) -> list[str]:
    cues = []
    for number, final in enumerate((final for final in finals if final.text), 1):
        times = f"{_clock(final.start, mark)} --> {_clock(final.end, mark)}"
        cues.append(f"{number}\n" * numbered + f"{times}\n{final.text}\n\n")
    return cues


def _clock(samples: int, mark: str) -> str:
    milliseconds = round(samples_to_seconds(samples) * 1000)
    hours, rest = divmod(milliseconds, 3_600_000)
    minutes, rest = divmod(rest, 60_000)
    seconds, milliseconds = divmod(rest, 1000)
    return f"{hours:02}:{minutes:02}:{seconds:02}{mark}{milliseconds:03}"


def _seconds(samples: int) -> float:
    return round(samples_to_seconds(samples), 3)
