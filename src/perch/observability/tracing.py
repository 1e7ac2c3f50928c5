"""One span for each stream, under the client's own trace if it sent one.

Without a provider no span is made, but every stream still has a trace id: its log lines can be found by
it, and by the client's if the client sent a ``traceparent``.
"""

import importlib
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from opentelemetry import trace
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from structlog.contextvars import bound_contextvars

import perch

SPAN_NAME = "perch.stream"
STREAM_ID = "perch.stream_id"

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
            claimed = trace.get_current_span(parent).get_span_context()
            trace_id = f"{claimed.trace_id:032x}" if claimed.is_valid else secrets.token_hex(16)
            with bound_contextvars(stream_id=stream_id, trace_id=trace_id):
                yield StreamSpan(trace_id)
            return
        with self._tracer.start_as_current_span(
            SPAN_NAME, parent, trace.SpanKind.SERVER, {STREAM_ID: stream_id}
        ) as span:
            trace_id = f"{span.get_span_context().trace_id:032x}"
            with bound_contextvars(stream_id=stream_id, trace_id=trace_id):
                yield StreamSpan(trace_id)

    def shutdown(self) -> None:
        """Send what has not been sent. Blocks, for a few seconds if the collector does not answer."""
        if self._provider is not None:
            self._provider.shutdown()


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
