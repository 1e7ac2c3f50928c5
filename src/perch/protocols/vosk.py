"""The dialect of vosk-server (github.com/alphacep/vosk-server): PCM in, exactly one reply to each message.

Its clients wait for a reply after each message of audio. They get what is known then: the text of an utterance
that has ended, once, or else the current partial. At the end comes what they have not been told yet.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from perch.core.audio import MAX_RATE, MIN_RATE, AudioFormat, samples_to_seconds
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
    Start,
    Stop,
)
from perch.core.speech import HotWords, RecognitionConfig, Word
from perch.errors import BadConfig, BadMessage, PerchError
from perch.protocols.base import Dialect, OneSocketProtocol, Request
from perch.protocols.choices import chosen, unchosen
from perch.protocols.frames import Writer, json_object, section, whole

DEFAULT_RATE = 8_000
MODELS = ("vosk-model", "model")
_KEYS = {"sample_rate", "phrase_list", "words", "max_alternatives", "model"}


class VoskProtocol(OneSocketProtocol):
    """One connection."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._write = Writer(request)
        rate = whole(dict(request.query).get("sample_rate", DEFAULT_RATE), MIN_RATE, MAX_RATE)
        if rate is None:
            raise BadConfig(f"sample_rate must be from {MIN_RATE} to {MAX_RATE}.")
        self._asked = unchosen(request.defaults.recognition)
        self._config = replace(
            request.defaults, audio=AudioFormat(sample_rate=rate), recognition=self._chosen(self._asked)
        )
        self._words = True
        self._alternatives = 0
        self._started = False
        self._rest = b""
        self._partial = ""
        self._untold: deque[Final] = deque()

    def opening(self) -> Sequence[Command]:
        return ()

    def implicit_start(self) -> Start:
        return Start(self._config, implicit=True)

    # --- client → server -----------------------------------------------------------------------------

    def decode_text(self, frame: str) -> Sequence[Command]:
        message = json_object(frame)
        if "config" in message:
            self._configure(section(message, "config"))
            return ()
        if message.get("eof"):
            return (*self._begin(), Stop())
        if message.get("reset"):
            self._untold.clear()
            self._partial = ""
            return (Finalize(),) if self._started else ()
        raise BadMessage('Send audio, {"config": {...}}, {"eof": 1} or {"reset": 1}.')

    def decode_binary(self, frame: bytes) -> Sequence[Command]:
        data = self._rest + frame
        whole_bytes = len(data) - len(data) % 2
        data, self._rest = data[:whole_bytes], data[whole_bytes:]
        return (*self._begin(), Audio(data), Reply(self._write(self._known())))

    def _begin(self) -> Sequence[Command]:
        if self._started:
            return ()
        self._started = True
        return (Start(self._config),)

    def _configure(self, config: Mapping[str, Any]) -> None:
        if self._started:
            raise BadMessage("config must come before the audio.")
        if unknown := config.keys() - _KEYS:
            raise BadConfig(f"config has unknown keys: {', '.join(sorted(map(repr, unknown)))}.")
        rate = whole(config.get("sample_rate", self._config.audio.sample_rate), MIN_RATE, MAX_RATE)
        if rate is None:
            raise BadConfig(f"sample_rate must be from {MIN_RATE} to {MAX_RATE}.")
        phrases = config.get("phrase_list") or []
        if not isinstance(phrases, list) or not all(isinstance(phrase, str) for phrase in phrases):
            raise BadConfig("phrase_list must be a list of texts.")
        self._words = bool(config.get("words", True))
        self._alternatives = whole(config.get("max_alternatives", 0), 0, 30) or 0
        asked = replace(
            self._asked,
            model=str(config.get("model") or self._asked.model),
            hotwords=(HotWords(tuple(phrases)),) if phrases else (),
        )
        self._config = SessionConfig(AudioFormat(sample_rate=rate), self._chosen(asked))
        self._asked = asked

    def _chosen(self, asked: RecognitionConfig) -> RecognitionConfig:
        return chosen(asked, self._request.models, self._request.defaults.recognition, elsewhere=MODELS)

    # --- server → client -----------------------------------------------------------------------------

    def encode(self, seq: int, event: Event) -> Sequence[str]:
        del seq
        match event:
            case Reply(text):
                return (text,)
            case Partial():
                self._partial = event.text
                return ()
            case Final():
                self._partial = ""
                if event.text:
                    self._untold.append(event)
                return ()
            case Done():
                return (self._write(self._result(tuple(self._untold))),)
            case Failed():
                return (self._write({"error": event.code, "message": event.message}),)
            case _:
                return ()

    def _known(self) -> dict[str, Any]:
        """What a message of audio is answered with."""
        if self._untold:
            return self._result((self._untold.popleft(),))
        return {"partial": self._partial}

    def _result(self, finals: Sequence[Final]) -> dict[str, Any]:
        text = " ".join(final.text for final in finals)
        words = [_word(word) for final in finals for word in final.words]
        body: dict[str, Any] = {"result": words} if self._words and words else {}
        body["text"] = text
        if not self._alternatives:
            return body
        confidence = finals[0].confidence if len(finals) == 1 else None
        return {"alternatives": [body | ({} if confidence is None else {"confidence": confidence})]}


def _word(word: Word) -> dict[str, Any]:
    """``conf`` is left out where nobody knows it."""
    known = {} if word.confidence is None else {"conf": round(word.confidence, 6)}
    times = {"start": round(samples_to_seconds(word.start), 6), "end": round(samples_to_seconds(word.end), 6)}
    return {**known, **times, "word": word.text}


def _refusal(error: PerchError) -> dict[str, Any]:
    return {"error": error.code, "message": error.message}


DIALECT = Dialect("vosk", VoskProtocol, _refusal)
