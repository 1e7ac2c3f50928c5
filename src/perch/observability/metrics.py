"""Every metric of the gateway, in one object that is made once and passed in.

Labels have a fixed set of values, known when the object is made: each child is bound there, so that
recording costs an addition and every series exists, at zero, from the first scrape on.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import Metric
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
        self._engine_ready = self._gauge("perch_engine_ready", "1 while the engine answers, else 0.")
        self._lag = self._histogram(
            "perch_event_loop_lag_seconds", "How late the event loop runs a timer.", _LAG_BUCKETS
        )

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

    # --- the engine and the process ------------------------------------------------------------------

    def engine_failure(self, code: str) -> None:
        self._engine_failures.inc(code)

    def set_engine_ready(self, ready: bool) -> None:  # noqa: FBT001 - the verb names the flag
        self._engine_ready.set(ready)

    def loop_lag(self, seconds: float) -> None:
        self._lag.observe(seconds)

    def render(self) -> tuple[bytes, str]:
        """The exposition and its content type, for ``GET /metrics``."""
        return generate_latest(_WithoutCreated(self._registry)), CONTENT_TYPE_LATEST

    # --- making them ---------------------------------------------------------------------------------

    def _event_metrics(self) -> dict[str, _Event]:
        sent = Counter(
            "perch_events_sent_total", "Transcript events sent, by kind.", ["kind"], registry=self._registry
        )
        about = "From the arrival of the audio a {} covers to sending it."
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

    def _counter(self, name: str, about: str) -> Counter:
        return Counter(name, about, registry=self._registry)

    def _labelled(self, name: str, about: str, label: str, values: Iterable[str]) -> _Labelled:
        return _Labelled(Counter(name, about, [label], registry=self._registry), values)

    def _gauge(self, name: str, about: str) -> Gauge:
        return Gauge(name, about, registry=self._registry)

    def _histogram(self, name: str, about: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, about, buckets=buckets, registry=self._registry)
