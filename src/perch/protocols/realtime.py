"""The realtime dialects: NVIDIA's Speech NIM and OpenAI's transcription sessions, GA and beta.

They share their frames (``input_audio_buffer.append`` and so on) and differ in names, in the shape of a session
and in what a ``delta`` is: NIM's is the whole hypothesis, OpenAI's only adds to those before it. What differs
stands in ``realtime_sessions.py``; this is the conversation.

Sources: docs.nvidia.com Speech NIM «Realtime ASR WebSocket API»; platform.openai.com API reference «Realtime».
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from perch import errors
from perch.core.audio import Encoding, samples_to_ms, samples_to_seconds
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
)
from perch.core.speech import Word
from perch.protocols import realtime_sessions as sessions
from perch.protocols.base import Dialect, OneSocketProtocol, Request
from perch.protocols.frames import Writer, base64_audio, flag, json_object, section

MAX_AUDIO = 15 << 20
"""Bytes of audio in one message, as both services document it."""
_MAX_MESSAGE = MAX_AUDIO * 4 // 3 + 4096
_TRANSCRIPTION = "conversation.item.input_audio_transcription"


class RealtimeProtocol(OneSocketProtocol):
    """One connection. ``shape`` is what is particular to the service it stands in for."""

    confirms_finalize = True

    def __init__(self, request: Request, shape: sessions.Shape) -> None:
        self._request = request
        self._shape = shape
        self._write = Writer(request)
        self._session = shape.session(request)
        self._config = shape.config(self._session, request)
        self._started = False
        self._rest = b""
        self._uncommitted = 0
        self._item = request.new_id("item_")
        self._previous: str | None = None
        self._committed: deque[str] = deque()
        """Items the client has committed and that have no transcript yet, where it ends turns itself."""
        self._texts: list[str] = []
        self._shown: list[str] = []
        self._sent: list[str] = []
        self._covered = 0
        self._words: list[Word] = []

    def opening(self) -> Sequence[Command]:
        if self._shape is sessions.NIM:
            conversation = {"id": self._request.new_id("conv_"), "object": "realtime.conversation"}
            return (self._reply({"type": "conversation.created", "conversation": conversation}),)
        return (self._reply({"type": self._shape.created, "session": self._session}),)

    def implicit_start(self) -> Start:
        return Start(self._config, implicit=True)

    # --- client → server -----------------------------------------------------------------------------

    def decode_text(self, frame: str) -> Sequence[Command]:
        """Mistakes are answered with an ``error`` and end nothing."""
        message: dict[str, Any] = {}
        try:
            message = json_object(frame)
            kind = message.get("type")
            read = self._handlers().get(kind) if isinstance(kind, str) else None
            if read is None:
                raise errors.BadMessage(f"There is no event of type {str(kind)[:80]!r} in this dialect.")
            return read(message)
        except errors.ClientFault as error:
            event_id = message.get("event_id")
            return (self._error(error, event_id if isinstance(event_id, str) else None),)

    def decode_binary(self, frame: bytes) -> Sequence[Command]:
        """Some clients save the base64."""
        return self._audio(frame)

    def _handlers(self) -> Mapping[str, Callable[[Mapping[str, Any]], Sequence[Command]]]:
        handlers: dict[str, Callable[[Mapping[str, Any]], Sequence[Command]]] = {
            "session.update": self._update,
            "transcription_session.update": self._update,
            "input_audio_buffer.append": self._append,
            "input_audio_buffer.commit": self._commit,
            "input_audio_buffer.clear": self._clear,
        }
        if self._shape is sessions.NIM:
            handlers["input_audio_buffer.done"] = self._finish
        return handlers

    def _update(self, message: Mapping[str, Any]) -> Sequence[Command]:
        """The configuration is used with the first audio; until then it may change."""
        session = self._shape.updated(self._session, section(message, "session"))
        config = self._shape.config(session, self._request)
        if self._started and config != self._config:
            raise errors.BadConfig(
                "The session cannot be changed once audio was sent; configure it first, or open another."
            )
        self._session, self._config = session, config
        return (self._reply({"type": self._shape.session_updated, "session": session}),)

    def _append(self, message: Mapping[str, Any]) -> Sequence[Command]:
        commands = self._audio(base64_audio(message.get("audio"), MAX_AUDIO))
        if flag(section(message, "runtime_config").get("force_eou")):
            return (*commands, Finalize())
        return commands

    def _audio(self, payload: bytes) -> Sequence[Command]:
        self._uncommitted += len(payload)
        if self._config.audio.encoding is Encoding.PCM16:
            payload = self._rest + payload
            whole = len(payload) - len(payload) % (2 * self._config.audio.channels)
            payload, self._rest = payload[:whole], payload[whole:]
        return (*self._begin(), Audio(payload))

    def _begin(self) -> Sequence[Command]:
        if self._started:
            return ()
        self._started = True
        return (Start(self._config),)

    def _commit(self, _: Mapping[str, Any]) -> Sequence[Command]:
        if self._shape is sessions.NIM:
            return (self._committed_reply(self._item),)  # it follows every append and means nothing
        if not self._uncommitted:
            raise sessions.EmptyCommit(
                "The input audio buffer is empty: send input_audio_buffer.append before it is committed."
            )
        self._uncommitted = 0
        if sessions.ends_turns(self._session):
            return (Finalize(),)
        item, self._item = self._item, self._request.new_id("item_")
        self._committed.append(item)
        return (*self._item_replies(item), Finalize())

    def _clear(self, _: Mapping[str, Any]) -> Sequence[Command]:
        """What was heard was heard: recognition does not wait for a commit."""
        self._uncommitted = 0
        return (self._reply({"type": "input_audio_buffer.cleared"}),)

    def _finish(self, _: Mapping[str, Any]) -> Sequence[Command]:
        return (*self._begin(), Stop())

    # --- server → client -----------------------------------------------------------------------------

    def encode(self, seq: int, event: Event) -> Sequence[str]:
        del seq
        match event:
            case Reply(text):
                return (text,)
            case Failed():
                return (self._failed(event),)
            case _ if self._shape is sessions.NIM:
                return tuple(map(self._frame, self._nim(event)))
            case _ if sessions.ends_turns(self._session):
                return tuple(map(self._frame, self._by_turns(event)))
            case _:
                return tuple(map(self._frame, self._by_commits(event)))

    def _nim(self, event: Event) -> list[dict[str, Any]]:
        match event:
            case Partial():
                return [self._item_event("delta", self._item, delta=event.text)]
            case Final():
                self._words += event.words
                self._covered = max(self._covered, event.end)
                return [self._nim_completed(event.text, event.words, event.end, is_last=False)]
            case Done():
                return [self._nim_completed(event.text, self._words, event.audio, is_last=True)]
            case _:
                return []

    def _nim_completed(
        self, text: str, words: Sequence[Word], processed: int, *, is_last: bool
    ) -> dict[str, Any]:
        body = self._item_event("completed", self._item, transcript=text, is_last_result=is_last)
        body["usage"] = {"type": "duration", "seconds": round(samples_to_seconds(processed), 3)}
        if section(self._session, "recognition_config").get("enable_word_time_offsets"):
            body["words_info"] = {"words": [sessions.nim_word(word) for word in words]}
        return body

    def _by_turns(self, event: Event) -> list[dict[str, Any]]:
        """The server ends turns: an item for each utterance."""
        match event:
            case SpeechStarted():
                started = {"type": "input_audio_buffer.speech_started", "item_id": self._item}
                return [started | {"audio_start_ms": samples_to_ms(event.at)}]
            case Partial():
                return self._delta(self._stable(event.text.split()))
            case Final():
                return self._turn(event)
            case _:
                return []

    def _turn(self, final: Final) -> list[dict[str, Any]]:
        item, self._item = self._item, self._request.new_id("item_")
        stopped = {"type": "input_audio_buffer.speech_stopped", "item_id": item}
        frames = [stopped | {"audio_end_ms": samples_to_ms(final.end)}, *self._item_events(item)]
        words = final.text.split()
        rest = words[len(self._sent) :] if words[: len(self._sent)] == self._sent else []
        frames += self._delta(rest, item)
        self._shown, self._sent, self._uncommitted = [], [], 0
        return [*frames, self._completed(item, final.text, final.end)]

    def _by_commits(self, event: Event) -> list[dict[str, Any]]:
        """The client ends turns: an item for each commit, whatever was said in it."""
        match event:
            case Final(text=text) if text:
                self._texts.append(text)
                return []
            case Finalized(at) if self._committed:
                item, text = self._committed.popleft(), " ".join(self._texts)
                self._texts = []
                delta = [self._item_event("delta", item, delta=text)] if text else []
                return [*delta, self._completed(item, text, at)]
            case _:
                return []

    def _stable(self, words: list[str]) -> list[str]:
        """What two partials in a row agree on and was not sent yet: a delta cannot be taken back."""
        agreed = 0
        for before, now in zip(self._shown, words, strict=False):
            if before != now:
                break
            agreed += 1
        self._shown = words
        if words[: len(self._sent)] != self._sent:
            return []
        return words[len(self._sent) : agreed]

    def _delta(self, words: list[str], item: str | None = None) -> list[dict[str, Any]]:
        if not words:
            return []
        text = " ".join(words)
        body = self._item_event("delta", item or self._item, delta=f" {text}" if self._sent else text)
        self._sent += words
        return [body]

    def _completed(self, item: str, text: str, end: int) -> dict[str, Any]:
        seconds = max(0.0, samples_to_seconds(end - self._covered))
        self._covered = max(self._covered, end)
        usage = {"type": "duration", "seconds": round(seconds, 3)}
        return self._item_event("completed", item, transcript=text, usage=usage)

    def _item_event(self, kind: str, item: str, **fields: Any) -> dict[str, Any]:
        return {"type": f"{_TRANSCRIPTION}.{kind}", "item_id": item, "content_index": 0, **fields}

    def _item_events(self, item: str) -> list[dict[str, Any]]:
        """That ``item`` is in the conversation now."""
        content = {"type": "input_audio", "transcript": None}
        described: dict[str, Any] = {
            "id": item,
            "object": "realtime.item",
            "type": "message",
            "status": "completed",
        }
        described |= {"role": "user", "content": [content]}
        previous, self._previous = self._previous, item
        link = {"previous_item_id": previous}
        committed = {"type": "input_audio_buffer.committed", "item_id": item} | link
        return [committed, *({"type": kind, "item": described} | link for kind in self._shape.item_events)]

    def _item_replies(self, item: str) -> Sequence[Reply]:
        return tuple(self._reply(body) for body in self._item_events(item))

    def _committed_reply(self, item: str) -> Reply:
        body = {"type": "input_audio_buffer.committed", "item_id": item, "previous_item_id": self._previous}
        return self._reply(body)

    def _error(self, error: errors.PerchError, event_id: str | None) -> Reply:
        return self._reply(
            {"type": "error", "error": sessions.error_body(error.code, error.message, event_id)}
        )

    def _failed(self, event: Failed) -> str:
        return self._frame({"type": "error", "error": sessions.error_body(event.code, event.message, None)})

    def _reply(self, body: dict[str, Any]) -> Reply:
        return Reply(self._frame(body))

    def _frame(self, body: dict[str, Any]) -> str:
        return self._write({"event_id": self._request.new_id("event_"), **body})


def choose(headers: Mapping[str, str], query: Mapping[str, str]) -> Dialect:
    """Which of the dialects a request to ``/v1/realtime`` speaks."""
    offered = [item.strip() for item in headers.get("Sec-WebSocket-Protocol", "").split(",")]
    beta = "OpenAI-Beta" in headers or "openai-beta.realtime-v1" in offered
    if any(item.startswith("realtime-token.") for item in offered):
        return NIM
    if beta:
        return OPENAI_BETA
    return NIM if query.get("intent") == "transcription" and "model" not in query else OPENAI_GA


def _dialect(name: str, shape: sessions.Shape) -> Dialect:
    return Dialect(
        name,
        lambda request: RealtimeProtocol(request, shape),
        lambda error: {"error": sessions.error_body(error.code, error.message, None)},
        ("realtime",),
        max_message_bytes=_MAX_MESSAGE,
    )


NIM = _dialect("nim-realtime", sessions.NIM)
OPENAI_GA = _dialect("openai-realtime", sessions.OPENAI_GA)
OPENAI_BETA = _dialect("openai-realtime-beta", sessions.OPENAI_BETA)
