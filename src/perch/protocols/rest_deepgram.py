"""Deepgram's ``POST /v1/listen`` for recordings: the parameters and the answer (developers.deepgram.com)."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from perch.core.audio import samples_to_seconds
from perch.core.messages import Final
from perch.core.speech import Word
from perch.errors import BadConfig
from perch.protocols.frames import flag


def options(query: Sequence[tuple[str, str]]) -> tuple[bool, bool]:
    """Whether channels are to be kept apart, and whether utterances are wanted.

    Raises:
        BadConfig: A parameter is not what it must be, or cannot be had.
    """
    one = dict(query)
    if one.get("callback"):
        raise BadConfig("callback is not supported: the answer comes on this request.")
    values = [flag(one.get(name, "false")) for name in ("multichannel", "utterances")]
    if None in values:
        raise BadConfig("multichannel and utterances must be true or false.")
    return bool(values[0]), bool(values[1])


def answer(
    channels: Sequence[Sequence[Final]],
    samples: int,
    *,
    request_id: str,
    sha256: str,
    now: float,
    model: str,
    utterances: bool,
) -> dict[str, Any]:
    """The whole answer: a transcript for each channel."""
    info = {"name": model, "version": "", "arch": "perch"}
    results: dict[str, Any] = {"channels": [{"alternatives": [_alternative(finals)]} for finals in channels]}
    if utterances:
        said = [final for finals in channels for final in finals if final.text]
        results["utterances"] = [
            _utterance(number, final)
            for number, final in enumerate(sorted(said, key=lambda final: final.start))
        ]
    return {
        "metadata": {
            "transaction_key": "deprecated",
            "request_id": request_id,
            "sha256": sha256,
            "created": datetime.fromtimestamp(now, UTC).isoformat().replace("+00:00", "Z"),
            "duration": round(samples_to_seconds(samples), 3),
            "channels": len(channels),
            "models": [model],
            "model_info": {model: info},
        },
        "results": results,
    }


def _alternative(finals: Sequence[Final]) -> dict[str, Any]:
    words = [word for final in finals for word in final.words]
    known = [final.confidence for final in finals if final.confidence is not None]
    return {
        "transcript": " ".join(final.text for final in finals if final.text),
        "confidence": round(sum(known) / len(known), 4) if known else 0.0,
        "words": [_word(word) for word in words],
    }


def _utterance(number: int, final: Final) -> dict[str, Any]:
    return {
        "id": f"utterance-{number}",
        "start": _seconds(final.start),
        "end": _seconds(final.end),
        "confidence": round(final.confidence or 0.0, 4),
        "channel": final.channel,
        "transcript": final.text,
        "words": [_word(word) for word in final.words],
    }


def _word(word: Word) -> dict[str, Any]:
    body: dict[str, Any] = {
        "word": word.text.lower().strip(".,;:!?"),
        "start": _seconds(word.start),
        "end": _seconds(word.end),
        "confidence": round(word.confidence or 0.0, 4),
        "punctuated_word": word.text,
    }
    return body if word.speaker is None else body | {"speaker": word.speaker}


def _seconds(samples: int) -> float:
    return round(samples_to_seconds(samples), 3)
