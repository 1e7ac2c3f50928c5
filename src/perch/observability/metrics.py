"""Every metric of the gateway, in one object that is made once and passed in.

Labels have a fixed set of values, known when the object is made: each child is bound there, so that
recording costs an addition and every series exists, at zero, from the first scrape on.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

import perch
from perch import errors

OTHER = "other"
"""The label of a value outside the known set: a label must never grow with what clients send."""

DONE = "done"
CLIENT_GONE = "client_gone"
CANCELLED = "cancelled"

SAMPLE_RATE: Final = 16_000
"""``core.audio.RATE``, said again because the core and its observers do not import each other."""

LATENCY_BUCKETS: Final = (0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.8, 1.2, 2.0, 5.0, 10.0)
"""Seconds from 10 ms to 10 s, with an edge on each target: 300 ms for a partial, 800 ms for a final."""

STAGES: Final = ("ws_in", "engine_write", "engine_read", "ws_out")
"""Where the gateway's own time goes, in the order of the road.

``ws_in``: from a frame being read to its samples being spooled. ``engine_write``: a message to the engine,
flow control included. ``engine_read``: from an engine's message to its event being queued. ``ws_out``: from
there to the frame being handed to the socket.
"""

BREAKER_STATES: Final = ("closed", "half_open", "open")

_STAGE_BUCKETS = (0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.1, 0.5, 2.0, 10.0)
_RTFX_BUCKETS = (0.25, 0.5, 0.8, 0.9, 0.95, 1.0, 1.05, 1.25, 2.0, 5.0, 20.0, 100.0)
_LAG_BUCKETS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
_LENGTH_BUCKETS = (1.0, 5.0, 15.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 14400.0)


def error_codes(fault: errors.Fault | None = None) -> frozenset[str]:
    """The codes in ``perch.errors``, or those of one fault."""
    return frozenset(kind.code for kind in _tree(errors.PerchError) if fault in (None, kind.fault))


def _tree(root: type[errors.PerchError]) -> Iterator[type[errors.PerchError]]:
    yield root
    for kind in root.__subclasses__():
        yield from _tree(kind)


class _Labelled:
    """The children of a counter with one label, bound for every value it can have."""

    def __init__(self, counter: Counter, values: Iterable[str]) -> None:
        self._children = {value: counter.labels(value) for value in (*sorted(values), OTHER)}
        self._other = self._children[OTHER]

    def inc(self, value: str) -> None:
        self._children.get(value, self._other).inc()


@dataclass(frozen=True, slots=True)
class _Event:
    sent: Counter
    latency: Histogram


@dataclass(frozen=True, slots=True)
class EndpointSample:
    """One engine as the gateway sees it; ``breaker`` is one of ``BREAKER_STATES``."""

    address: str
    streams: int
    breaker: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What is looked at when somebody asks, rather than counted as it happens.

    Args:
        lag_s: How far the session that is furthest behind is behind its audio.
        spool_bytes: Audio held for engines, of all sessions.
        parked: Sessions whose client may come back.
        endpoints: The engines that are configured or discovered now.
    """

    lag_s: float = 0.0
    spool_bytes: int = 0
    parked: int = 0
    endpoints: tuple[EndpointSample, ...] = field(default=())


class _Endpoints(Collector):
    """Gauges of the engines there are now: one that is gone leaves no series behind."""

    def __init__(self) -> None:
        self.samples: tuple[EndpointSample, ...] = ()

    def collect(self) -> Iterator[Metric]:
        streams = GaugeMetricFamily(
            "perch_engine_streams", "Streams open on each engine.", labels=["endpoint"]
        )
        breakers = GaugeMetricFamily(
            "perch_engine_breaker",
            "1 for the state each engine's circuit breaker is in.",
            labels=["endpoint", "state"],
        )
        for sample in self.samples:
            streams.add_metric([sample.address], sample.streams)
            for state in BREAKER_STATES:
                breakers.add_metric([sample.address, state], float(state == sample.breaker))
        yield streams
        yield breakers


class _WithoutCreated(Collector):
    """A registry without its ``_created`` series, which would double every scrape and which nobody reads."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        for metric in self._registry.collect():
            metric.samples = [sample for sample in metric.samples if not sample.name.endswith("_created")]
            yield metric


class Metrics:
    """What the gateway counts.

    Args:
        registry: Where the metrics live; a fresh one by default.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self._registry = registry or CollectorRegistry()
        ProcessCollector(registry=self._registry)
        build = Info("perch_build", "The version that is running.", registry=self._registry)
        build.info({"version": perch.__version__})

        self._active = self._gauge("perch_sessions_active", "Sessions open now.")
        self._limit = self._gauge("perch_sessions_limit", "Sessions that are admitted at the same time.")
        self._opened = self._counter("perch_sessions_opened_total", "Sessions opened.")
        self._closed = self._labelled(
            "perch_sessions_closed_total",
            "Sessions closed, by outcome: done, client_gone, cancelled or an error code.",
            "outcome",
            {DONE, CLIENT_GONE, CANCELLED} | error_codes(),
        )
        self._durations = self._histogram(
            "perch_session_duration_seconds", "Wall time of closed sessions.", _LENGTH_BUCKETS
        )
        self._lengths = self._histogram(
            "perch_session_audio_seconds", "Audio accepted in closed sessions.", _LENGTH_BUCKETS
        )
        self._rtfx = self._histogram(
            "perch_session_rtfx",
            "Seconds of audio for each second of wall time, of closed sessions.",
            _RTFX_BUCKETS,
        )
        self._resumes = self._labelled(
            "perch_resumes_total",
            "Sessions taken up again by their client, by where they were; unknown if nowhere.",
            "source",
            ("here", "elsewhere", "unknown"),
        )
        self._parked = self._gauge("perch_sessions_parked", "Sessions that wait for their client.")
        self._refused = self._labelled(
            "perch_requests_refused_total",
            "Requests and sessions refused before they began, by error code.",
            "code",
            error_codes(),
        )
        self._limits_unavailable = self._counter(
            "perch_limits_unavailable_total", "Times Redis could not be asked about a caller's limits."
        )
        self._audio = self._counter("perch_audio_seconds_total", "Audio accepted from clients.")
        self._events = self._event_metrics()
        self._engine_failures = self._labelled(
            "perch_engine_failures_total",
            "Sessions that an engine ended, by error code.",
            "code",
            error_codes("engine"),
        )
        self._attempts = self._labelled(
            "perch_engine_attempts_total",
            "Streams opened on an engine, by how they ended: done, cancelled or an error code.",
            "outcome",
            {DONE, CANCELLED} | error_codes("engine"),
        )
        self._failovers = self._labelled(
            "perch_engine_failovers_total",
            "Streams that went on after their engine failed mid-way, by error code.",
            "code",
            error_codes("engine"),
        )
        self._replayed = self._counter(
            "perch_replayed_audio_seconds_total",
            "Audio sent to an engine again, because none had covered it.",
        )
        self._spool = self._gauge("perch_spool_bytes", "Audio held for engines, of all sessions.")
        self._furthest = self._gauge(
            "perch_lag_seconds", "Audio no engine has taken yet, of the session that is furthest behind."
        )
        self._endpoints = _Endpoints()
        self._registry.register(self._endpoints)
        self._stages = self._stage_metrics()
        self._engine_ready = self._gauge("perch_engine_ready", "1 while the engine answers, else 0.")
        self._lag = self._histogram(
            "perch_event_loop_lag_seconds", "How late the event loop runs a timer.", _LAG_BUCKETS
        )

    def set_session_limit(self, sessions: int) -> None:
        self._limit.set(sessions)

    # --- sessions ------------------------------------------------------------------------------------

    def session_opened(self) -> None:
        self._opened.inc()
        self._active.inc()

    def session_closed(self, outcome: str, duration_s: float, audio_s: float) -> None:
        """Count the end of a session: ``done``, ``client_gone``, ``cancelled`` or an error code."""
        self._active.dec()
        self._closed.inc(outcome)
        self._durations.observe(duration_s)
        self._lengths.observe(audio_s)
        if audio_s > 0 and duration_s > 0:
            self._rtfx.observe(audio_s / duration_s)

    def resumed(self, source: str) -> None:
        """Count a client that came back: its session was ``here``, ``elsewhere`` or ``unknown``."""
        self._resumes.inc(source)

    def refused(self, code: str) -> None:
        self._refused.inc(code)

    def limits_unavailable(self) -> None:
        self._limits_unavailable.inc()

    # --- what passes through one ---------------------------------------------------------------------

    def audio_received(self, samples: int) -> None:
        """Count accepted audio; call it about once a second of audio, not for each frame."""
        self._audio.inc(samples / SAMPLE_RATE)

    def event_sent(self, kind: str, latency_s: float | None) -> None:
        """Count a ``partial`` or ``final``; ``latency_s`` runs from the arrival of the audio it covers."""
        event = self._events[kind]
        event.sent.inc()
        if latency_s is not None:
            event.latency.observe(latency_s)

    def first_partial(self, latency_s: float) -> None:
        """The first words of a session, from the arrival of the audio they cover."""
        self._first_partial.observe(latency_s)

    def speech_end(self, latency_s: float) -> None:
        """A final, from the arrival of the last sound of its last word."""
        self._speech_end.observe(latency_s)

    def stage(self, stage: str, seconds: float) -> None:
        """One measurement of a stage (``STAGES``); taken about once a second of audio, not for each frame."""
        self._stages[stage].observe(seconds)

    # --- the engine and the process ------------------------------------------------------------------

    def attempt_ended(self, outcome: str) -> None:
        """A stream on an engine is over: ``done``, ``cancelled`` or an error code."""
        self._attempts.inc(outcome)

    def failover(self, code: str) -> None:
        self._failovers.inc(code)

    def replayed(self, samples: int) -> None:
        self._replayed.inc(samples / SAMPLE_RATE)

    def engine_failure(self, code: str) -> None:
        self._engine_failures.inc(code)

    def set_engine_ready(self, ready: bool) -> None:  # noqa: FBT001 - the verb names the flag
        self._engine_ready.set(ready)

    def loop_lag(self, seconds: float) -> None:
        self._lag.observe(seconds)

    def render(self, now: Snapshot | None = None) -> tuple[bytes, str]:
        """The exposition and its content type, for ``GET /metrics``."""
        now = now or Snapshot()
        self._furthest.set(now.lag_s)
        self._spool.set(now.spool_bytes)
        self._parked.set(now.parked)
        self._endpoints.samples = now.endpoints
        return generate_latest(_WithoutCreated(self._registry)), CONTENT_TYPE_LATEST

    # --- making them ---------------------------------------------------------------------------------

    def _event_metrics(self) -> dict[str, _Event]:
        sent = Counter(
            "perch_events_sent_total", "Transcript events sent, by kind.", ["kind"], registry=self._registry
        )
        about = "From the arrival of the audio a {} covers to sending it."
        self._first_partial = self._histogram(
            "perch_first_partial_latency_seconds",
            "The first partial of a session, from the arrival of the audio it covers to sending it.",
            LATENCY_BUCKETS,
        )
        self._speech_end = self._histogram(
            "perch_speech_end_to_final_seconds",
            "From the arrival of the end of a final's last word to sending the final: endpointing included.",
            LATENCY_BUCKETS,
        )
        return {
            "partial": _Event(
                sent.labels("partial"),
                self._histogram("perch_partial_latency_seconds", about.format("partial"), LATENCY_BUCKETS),
            ),
            "final": _Event(
                sent.labels("final"),
                self._histogram("perch_final_latency_seconds", about.format("final"), LATENCY_BUCKETS),
            ),
        }

    def _stage_metrics(self) -> dict[str, Histogram]:
        stages = Histogram(
            "perch_stage_seconds",
            "Time in one stage of the gateway, sampled about once a second of audio.",
            ["stage"],
            buckets=_STAGE_BUCKETS,
            registry=self._registry,
        )
        return {stage: stages.labels(stage) for stage in STAGES}

    def _counter(self, name: str, about: str) -> Counter:
        return Counter(name, about, registry=self._registry)

    def _labelled(self, name: str, about: str, label: str, values: Iterable[str]) -> _Labelled:
        return _Labelled(Counter(name, about, [label], registry=self._registry), values)

    def _gauge(self, name: str, about: str) -> Gauge:
        return Gauge(name, about, registry=self._registry)

    def _histogram(self, name: str, about: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, about, buckets=buckets, registry=self._registry)
