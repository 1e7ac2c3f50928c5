"""Locust users that speak to the gateway; load/README.md has the commands.

Settings, all from the environment: PERCH_LOAD_WAV (16-bit mono WAV; without it, tone words),
PERCH_LOAD_API_KEY, PERCH_LOAD_CA (PEM), PERCH_LOAD_INSECURE=1 (trust any certificate),
PERCH_LOAD_SILENCE_S (seconds without an event after which a session has failed).
"""

import os
import time
from pathlib import Path

from load.client import SessionFailed, StreamSession, Target
from load.recording import Recording, read_wav, tone_words
from locust import User, constant, task

REQUEST_TYPE = "WS"


def recording() -> Recording:
    path = os.environ.get("PERCH_LOAD_WAV")
    return read_wav(Path(path)) if path else tone_words()


def target(host: str) -> Target:
    ca = os.environ.get("PERCH_LOAD_CA")
    return Target(
        host,
        api_key=os.environ.get("PERCH_LOAD_API_KEY", ""),
        ca=Path(ca) if ca else None,
        insecure=os.environ.get("PERCH_LOAD_INSECURE") == "1",
        silence_s=float(os.environ.get("PERCH_LOAD_SILENCE_S", "30")),
    )


class StreamingUser(User):
    """Speaks the recording in real time, waits for its last word, breathes, and begins again."""

    host = "https://127.0.0.1:8443"
    wait_time = constant(1.0)
    recording = recording()

    @task
    def speak(self) -> None:
        session = StreamSession(target(self.host or StreamingUser.host), self.recording)
        began = time.monotonic()
        stage = "connect"
        try:
            session.connect()
            self._report(stage, time.monotonic() - began)
            stage = "session"
            timings = session.stream()
        except SessionFailed as error:
            self._report(stage, time.monotonic() - began, error=error)
            return
        finally:
            session.close()
        self._report("first partial", timings.first_partial)
        self._report("final after last audio", timings.final)
        self._report("done after last audio", timings.done)
        self._report(stage, time.monotonic() - began, size=len(self.recording.pcm))

    def _report(
        self, name: str, seconds: float | None, *, size: int = 0, error: SessionFailed | None = None
    ) -> None:
        if seconds is None:
            return
        self.environment.events.request.fire(
            request_type=REQUEST_TYPE,
            name=name,
            response_time=seconds * 1000,
            response_length=size,
            exception=error,
            context={},
        )
