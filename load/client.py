"""One streaming client of the gateway, at the pace of a microphone.

It uses sockets and threads from the standard library only, so Locust's gevent makes it cooperative and
a test can run it without Locust.
"""

import json
import math
import ssl
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import websocket
from load.recording import FRAMES_PER_SECOND, Recording

PATH = "/v1/audio/transcriptions/stream"
_CLOSE_TIMEOUT_S = 1


class SessionFailed(Exception):
    """Why a session did not end with ``done``: an error code or a short phrase, so that equal ones add up."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where to stream to, and how.

    Args:
        host: ``http://``, ``https://``, ``ws://`` or ``wss://`` and the gateway's address.
        api_key: Sent as a bearer token, if there is one.
        ca: Certificate to trust (PEM); None trusts what the system trusts.
        insecure: Trust any certificate.
        silence_s: A gateway that says nothing for this long has failed.
    """

    host: str
    api_key: str = field(default="", repr=False)
    ca: Path | None = None
    insecure: bool = False
    silence_s: float = 30.0

    @property
    def url(self) -> str:
        parts = urlsplit(self.host)
        scheme = {"http": "ws", "https": "wss"}.get(parts.scheme, parts.scheme)
        return urlunsplit((scheme, parts.netloc, PATH, "", ""))

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}

    @property
    def tls(self) -> dict[str, Any]:
        if self.insecure:
            return {"cert_reqs": ssl.CERT_NONE, "check_hostname": False}
        return {} if self.ca is None else {"ca_certs": str(self.ca)}


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds. None where the gateway sent no such event.

    Args:
        first_partial: From sending the audio that the first partial covers to receiving it.
        final: From sending the last audio to receiving the last final, if that came after it.
        done: From sending the last audio to ``done``.
    """

    first_partial: float | None
    final: float | None
    done: float


class StreamSession:
    """One session: ``connect`` once, ``stream`` once, ``close`` always."""

    def __init__(self, target: Target, recording: Recording) -> None:
        self._target = target
        self._recording = recording
        self._socket: websocket.WebSocket | None = None
        self._ended = threading.Event()
        self._failure = ""
        self._sent: list[float] = []
        self._first_partial: tuple[float, float] | None = None
        self._last_final: float | None = None
        self._done = 0.0

    def connect(self) -> None:
        """Open the session; return when the gateway is ready for audio.

        Raises:
            SessionFailed: It refused or cannot be reached.
        """
        target = self._target
        try:
            self._socket = websocket.create_connection(
                target.url, timeout=target.silence_s, header=target.headers, sslopt=target.tls
            )
            config = {"sample_rate": self._recording.sample_rate, "encoding": "pcm16"}
            self._socket.send(json.dumps({"type": "start", "config": config}))
        except websocket.WebSocketBadStatusException as error:
            raise SessionFailed(_refusal(error)) from error
        except (websocket.WebSocketException, OSError) as error:
            raise SessionFailed(f"cannot connect ({type(error).__name__})") from error
        while self._receive()["type"] != "ready":
            pass

    def stream(self) -> Timings:
        """Send the recording in real time, then stop and wait for the last word.

        Raises:
            SessionFailed: The gateway sent an error, closed early or fell silent.
        """
        reader = threading.Thread(target=self._read, daemon=True)
        reader.start()
        self._speak()
        reader.join()  # the reader ends by itself: each of its waits is at most silence_s
        if self._failure:
            raise SessionFailed(self._failure)
        return self._timings()

    def close(self) -> None:
        """End the session politely if it is still open; let go of the socket in any case."""
        if self._socket is None:
            return
        self._socket.close(timeout=_CLOSE_TIMEOUT_S)
        self._socket.shutdown()  # type: ignore[no-untyped-call]

    # --- sending -------------------------------------------------------------------------------------

    def _speak(self) -> None:
        started = time.monotonic()
        try:
            for number, frame in enumerate(self._recording.frames(), start=1):
                # A frame can be sent when its last sample has been spoken. Waiting for the end of the
                # session instead of sleeping stops the sender as soon as the gateway gives up.
                due = started + number / FRAMES_PER_SECOND
                if self._ended.wait(max(0.0, due - time.monotonic())):
                    return
                self._connected.send_binary(frame)
                self._sent.append(time.monotonic())
            self._connected.send(json.dumps({"type": "stop"}))
        except (websocket.WebSocketException, OSError):
            self._ended.wait(self._target.silence_s)  # the reader finds out why

    # --- receiving -----------------------------------------------------------------------------------

    def _read(self) -> None:
        try:
            while not self._took(self._receive()):
                pass
        except SessionFailed as error:
            self._failure = str(error)
        finally:
            self._ended.set()

    def _receive(self) -> dict[str, Any]:
        try:
            opcode, frame = self._connected.recv_data()
        except websocket.WebSocketTimeoutException as error:
            raise SessionFailed(f"silent for {self._target.silence_s:g} s") from error
        except (websocket.WebSocketException, OSError) as error:
            raise SessionFailed("connection lost") from error
        if opcode == websocket.ABNF.OPCODE_CLOSE:
            raise SessionFailed(f"closed {int.from_bytes(frame[:2], 'big') or 1005}")
        message: dict[str, Any] = json.loads(frame)
        if message["type"] == "error":
            raise SessionFailed(message["code"])
        return message

    def _took(self, message: dict[str, Any]) -> bool:
        """Note when ``message`` came; True if it is the last."""
        now = time.monotonic()
        match message["type"]:
            case "partial" if self._first_partial is None:
                self._first_partial = now, message["end"]
            case "final":
                self._last_final = now
            case "done":
                self._done = now
        return bool(self._done)

    @property
    def _connected(self) -> websocket.WebSocket:
        if self._socket is None:
            raise SessionFailed("not connected")
        return self._socket

    # --- measuring -----------------------------------------------------------------------------------

    def _timings(self) -> Timings:
        spoken = self._sent[-1] if self._sent else self._done
        late = self._last_final is not None and self._last_final >= spoken
        return Timings(
            first_partial=self._partial_latency(),
            final=self._last_final - spoken if late and self._last_final is not None else None,
            done=self._done - spoken,
        )

    def _partial_latency(self) -> float | None:
        if self._first_partial is None:
            return None
        arrived, end = self._first_partial
        frames = math.ceil(round(end * FRAMES_PER_SECOND, 3))
        return arrived - self._sent[min(len(self._sent), max(1, frames)) - 1]


def _refusal(error: websocket.WebSocketBadStatusException) -> str:
    try:
        code = json.loads(error.resp_body or b"")["error"]["code"]
    except (ValueError, LookupError, TypeError):
        return f"HTTP {error.status_code}"
    return f"HTTP {error.status_code} {code}"
