"""Calls that telephone platforms stream as JSON: Twilio Media Streams and those that copy it.

The platforms name the same things differently; ``_NAMES`` lists every name that was seen for each. They take no
words back, so nothing is sent: transcripts go to webhooks and observers (``server/observers.py``).

Each track of a call is a channel. A platform sends only what was heard, so a track that begins late or pauses is
filled with silence up to the time its next packet names: both keep the clock of the call.

Sources: twilio.com/docs/voice/media-streams/websocket-messages; developers.telnyx.com «Media streaming»;
docs of SignalWire, Plivo, Exotel; Vonage's WebSocket sends the same as binary frames of L16.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from perch.core.audio import MAX_RATE, MIN_RATE, AudioFormat, Encoding
from perch.core.messages import Audio, Command, Event, SessionConfig, Start, Stop
from perch.core.speech import HotWords
from perch.errors import BadAudio, BadConfig, BadMessage, PerchError
from perch.protocols.base import Dialect, OneSocketProtocol, Request
from perch.protocols.choices import chosen, unchosen
from perch.protocols.frames import base64_audio, json_object, section, whole

_NAMES = {
    "event": ("event",),
    "stream": ("streamSid", "stream_sid", "stream_id", "streamId"),
    "call": ("callSid", "call_sid", "call_control_id", "callId"),
    "format": ("mediaFormat", "media_format"),
    "encoding": ("encoding",),
    "rate": ("sampleRate", "sample_rate"),
    "parameters": ("customParameters", "custom_parameters", "extra_headers"),
    "tracks": ("tracks",),
    "track": ("track",),
    "chunk": ("chunk", "chunk_id"),
    "time": ("timestamp",),
    "payload": ("payload",),
    "content_type": ("content-type",),
}
ENCODINGS = {
    "audio/x-mulaw": Encoding.MULAW,
    "audio/x-mulaw-8khz": Encoding.MULAW,
    "pcmu": Encoding.MULAW,
    "mulaw": Encoding.MULAW,
    "audio/x-alaw": Encoding.ALAW,
    "pcma": Encoding.ALAW,
    "alaw": Encoding.ALAW,
    "audio/x-l16": Encoding.PCM16,
    "l16": Encoding.PCM16,
    "raw/slin": Encoding.PCM16,
    "base64": Encoding.PCM16,
    "pcm16": Encoding.PCM16,
}
_SILENCE = {Encoding.MULAW: b"\xff", Encoding.ALAW: b"\xd5", Encoding.PCM16: b"\0"}
_CHANNELS = {"inbound": 0, "inbound_track": 0, "outbound": 1, "outbound_track": 1}
_IGNORED = {"connected", "dtmf", "mark", "playedStream", "clear", "clearedAudio", "error", "websocket:dtmf"}
_MAX_PAYLOAD = 1 << 18
_SLACK_S = 0.1
"""Packets jitter; only a gap beyond this is one."""
_LONGEST_GAP_S = 60.0
"""Silence filled in at once. A stamp further ahead than this is a mistake."""


class MediaStreamProtocol(OneSocketProtocol):
    """One stream of one call."""

    def __init__(self, request: Request) -> None:
        self._request = request
        defaults = request.defaults.recognition
        found = chosen(unchosen(defaults), request.models, defaults)
        self._config = replace(request.defaults, recognition=found)
        self._started = False
        self._sent: dict[int, int] = {}
        """Bytes of each channel so far, silence filled in included."""
        self._chunks: dict[int, int] = {}
        self._details: dict[str, str] = {}
        self.details = self._details

    def opening(self) -> Sequence[Command]:
        return ()

    def implicit_start(self) -> Start:
        return Start(self._config, implicit=True)

    def decode_text(self, frame: str) -> Sequence[Command]:
        message = json_object(frame)
        match _get(message, "event"):
            case "start":
                return self._start(message)
            case "websocket:connected":
                return self._start_binary(message)
            case "media":
                return self._media(section(message, "media"))
            case "stop" | "closed":
                return (*self._begun(), Stop())
            case str(event) if event in _IGNORED:
                return ()
            case event:
                raise BadMessage(f"There is no event {str(event)[:80]!r} in a media stream.")

    def decode_binary(self, frame: bytes) -> Sequence[Command]:
        """How Vonage sends what others put into ``media``."""
        return (*self._begun(), Audio(frame, 0))

    # --- how it begins -------------------------------------------------------------------------------

    def _start(self, message: Mapping[str, Any]) -> Sequence[Command]:
        if self._started:
            raise BadMessage("The stream has already started.")
        start = section(message, "start")
        form = _get(start, "format")
        form = form if isinstance(form, dict) else {}
        self._details.update(
            {
                name: str(found)
                for name in ("stream", "call")
                if (found := _get(start, name) or _get(message, name)) is not None
            }
        )
        tracks = _get(start, "tracks")
        several = (isinstance(tracks, list) and len(tracks) > 1) or tracks in ("both", "both_tracks")
        self._config = self._configured(
            str(_get(form, "encoding") or "audio/x-mulaw"),
            _get(form, "rate") or 8_000,
            2 if several else 1,
            _parameters(_get(start, "parameters")),
        )
        return self._begun()

    def _start_binary(self, message: Mapping[str, Any]) -> Sequence[Command]:
        """``content-type: audio/l16;rate=16000``; whatever else is in it are parameters of the call."""
        kind, _, rate = str(_get(message, "content_type") or "audio/l16;rate=16000").partition(";rate=")
        self._config = self._configured(kind.removeprefix("audio/"), rate or 16_000, 1, _parameters(message))
        return self._begun()

    def _configured(
        self, encoding: str, rate: object, channels: int, parameters: Mapping[str, str]
    ) -> SessionConfig:
        known = ENCODINGS.get(encoding.lower())
        if known is None:
            raise BadConfig(f"There is no encoding {encoding[:40]!r}; there are {', '.join(ENCODINGS)}.")
        hertz = whole(rate, MIN_RATE, MAX_RATE)
        if hertz is None:
            raise BadConfig(f"The sample rate must be from {MIN_RATE} to {MAX_RATE}.")
        defaults = self._request.defaults.recognition
        phrases = tuple(p.strip() for p in parameters.get("hotwords", "").split(",") if p.strip())
        recognition = replace(
            defaults,
            language=parameters.get("language") or "",
            model=parameters.get("model") or "",
            hotwords=defaults.hotwords + ((HotWords(phrases),) if phrases else ()),
        )
        found = chosen(recognition, self._request.models, defaults)
        return SessionConfig(AudioFormat(known, hertz, channels), found)

    def _begun(self) -> Sequence[Command]:
        if self._started:
            return ()
        self._started = True
        return (Start(self._config),)

    # --- audio ---------------------------------------------------------------------------------------

    def _media(self, media: Mapping[str, Any]) -> Sequence[Command]:
        payload = base64_audio(_get(media, "payload"), _MAX_PAYLOAD)
        channel = self._channel(_get(media, "track"))
        if self._is_repeated(channel, _get(media, "chunk")):
            return ()
        silence = self._gap(channel, _get(media, "time"))
        self._sent[channel] = self._sent.get(channel, 0) + len(silence) + len(payload)
        filled = (Audio(silence, channel),) if silence else ()
        return (*self._begun(), *filled, Audio(payload, channel))

    def _channel(self, track: object) -> int:
        wanted = _CHANNELS.get(str(track).lower(), 0)
        return min(wanted, self._config.audio.channels - 1)

    def _is_repeated(self, channel: int, chunk: object) -> bool:
        """Whether a packet with this number, or a later one, has come already."""
        number = whole(chunk, 0, 1 << 53)
        if number is None or self._config.audio.channels == 1:
            return False
        if number <= self._chunks.get(channel, -1):
            return True
        self._chunks[channel] = number
        return False

    def _gap(self, channel: int, stamp: object) -> bytes:
        """Silence up to the time of a packet, in milliseconds from the beginning of the stream."""
        milliseconds = whole(stamp, 0, 1 << 40)
        if milliseconds is None or self._config.audio.channels == 1:
            return b""
        audio = self._config.audio
        per_second = audio.sample_rate * audio.encoding.width
        missing_s = milliseconds / 1000 - self._sent.get(channel, 0) / per_second
        if missing_s <= _SLACK_S:
            return b""
        if missing_s > _LONGEST_GAP_S + max(self._sent.values(), default=0) / per_second:
            raise BadAudio("A media packet is stamped more than a minute ahead of the call.")
        samples = round(missing_s * audio.sample_rate)
        return _SILENCE[audio.encoding] * (samples * audio.encoding.width)

    def encode(self, seq: int, event: Event) -> Sequence[str]:
        del seq, event
        return ()


def _get(message: Mapping[str, Any], name: str) -> Any:
    """What ``message`` has under any of the names that platforms use."""
    return next((message[key] for key in _NAMES[name] if key in message), None)


def _parameters(value: object) -> dict[str, str]:
    """Parameters of the call, as an object or as ``k=v,k=v`` (Plivo)."""
    if isinstance(value, dict):
        return {str(key): str(item) for key, item in value.items()}
    if isinstance(value, str):
        pairs = (item.partition("=") for item in value.replace(";", ",").split(","))
        return {key.strip(): item.strip() for key, equals, item in pairs if equals}
    return {}


def _refusal(error: PerchError) -> dict[str, Any]:
    return {"error": {"code": error.code, "message": error.message}}


DIALECT = Dialect("media-stream", MediaStreamProtocol, _refusal, is_observed=True)
