"""Spans: one for each stream, and under it one for each attempt on an engine and each utterance.

A stream stands under the client's own trace if it sent a ``traceparent``, and what is sent to the engine names
it in turn. Without a provider no span is made, but every stream still has a trace id: its log lines can be
found by it, and by the client's if the client sent one.
"""

import importlib
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from opentelemetry import context, trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from structlog.contextvars import bound_contextvars

import perch

SPAN_NAME = "perch.stream"
ATTEMPT = "perch.attempt"
UTTERANCE = "perch.utterance"
STREAM_ID = "perch.stream_id"

Metadata = tuple[tuple[str, str], ...]

_OTLP = "opentelemetry.exporter.otlp.proto.grpc.trace_exporter"
_EXPORT_TIMEOUT_S = 2.0
"""A collector that does not answer must not hold up the end of the process."""

_TRACEPARENT = TraceContextTextMapPropagator()


class ExporterMissing(Exception):
    """Tracing is configured, and the package that sends traces is not installed."""


@dataclass(frozen=True, slots=True)
class StreamSpan:
    """The trace a stream belongs to. ``trace_id`` is 32 hexadecimal digits."""

    trace_id: str
    _tracer: trace.Tracer | None = None
    _parent: Context | None = None

    def utterance(self, seconds: float, attributes: Mapping[str, str | int | float]) -> None:
        """Record an utterance that began ``seconds`` ago and has just got its final."""
        if self._tracer is None:
            return
        now = time.time_ns()
        span = self._tracer.start_span(
            UTTERANCE, self._parent, attributes=attributes, start_time=now - int(seconds * 1e9)
        )
        span.end(now)


class Tracing:
    """Makes the spans.

    Args:
        provider: Where spans go; None makes none.
    """

    def __init__(self, provider: TracerProvider | None) -> None:
        self._provider = provider
        self._tracer = None if provider is None else provider.get_tracer("perch", perch.__version__)

    @contextmanager
    def stream_span(self, stream_id: str, parent_headers: Mapping[str, str]) -> Iterator[StreamSpan]:
        """The life of one stream; what is logged inside carries ``stream_id`` and ``trace_id``.

        An exception that leaves the block is recorded in the span and goes on.
        """
        parent = _TRACEPARENT.extract(parent_headers)
        if self._tracer is None:
            with _handed_on(parent) as trace_id, bound_contextvars(stream_id=stream_id, trace_id=trace_id):
                yield StreamSpan(trace_id)
            return
        with self._tracer.start_as_current_span(
            SPAN_NAME, parent, trace.SpanKind.SERVER, {STREAM_ID: stream_id}
        ) as span:
            trace_id = f"{span.get_span_context().trace_id:032x}"
            with bound_contextvars(stream_id=stream_id, trace_id=trace_id):
                yield StreamSpan(trace_id, self._tracer, trace.set_span_in_context(span))

    @contextmanager
    def attempt_span(self, endpoint: str) -> Iterator[Metadata]:
        """One stream on one engine, under the stream that is current; the metadata that tells the engine.

        An exception that leaves the block is recorded in the span and goes on.
        """
        if self._tracer is None:
            yield _metadata()
            return
        with self._tracer.start_as_current_span(
            ATTEMPT, kind=trace.SpanKind.CLIENT, attributes={"server.address": endpoint}
        ):
            yield _metadata()

    def shutdown(self) -> None:
        """Send what has not been sent. Blocks, for a few seconds if the collector does not answer."""
        if self._provider is not None:
            self._provider.shutdown()


@contextmanager
def _handed_on(parent: Context) -> Iterator[str]:
    """Without spans of its own, a gateway hands the client's on to the engine as it came."""
    claimed = trace.get_current_span(parent).get_span_context()
    if not claimed.is_valid:
        yield secrets.token_hex(16)
        return
    token = context.attach(parent)
    try:
        yield f"{claimed.trace_id:032x}"
    finally:
        context.detach(token)


def _metadata() -> Metadata:
    if not trace.get_current_span().get_span_context().is_valid:
        return ()
    carrier: dict[str, str] = {}
    _TRACEPARENT.inject(carrier)
    return tuple(carrier.items())


def otlp_provider(endpoint: str) -> TracerProvider | None:
    """A provider that sends spans to ``endpoint`` over OTLP; None if there is no endpoint.

    Raises:
        ExporterMissing: There is one, and the ``otlp`` extra is not installed.
    """
    if not endpoint:
        return None
    try:
        exporter = importlib.import_module(_OTLP).OTLPSpanExporter(
            endpoint=endpoint, timeout=_EXPORT_TIMEOUT_S
        )
    except ModuleNotFoundError as error:
        raise ExporterMissing(
            f"Traces cannot be sent to {endpoint}: the exporter is not installed. "
            'Run: pip install "perch-asr[otlp]", or remove the tracing endpoint.'
        ) from error
    provider = TracerProvider(
        resource=Resource.create({SERVICE_NAME: "perch", SERVICE_VERSION: perch.__version__})
    )
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider
