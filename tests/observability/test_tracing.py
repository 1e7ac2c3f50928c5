import re
import sys
from collections.abc import Mapping
from types import ModuleType, SimpleNamespace
from typing import cast

import pytest
import structlog
from multidict import CIMultiDict
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from perch.observability import tracing
from perch.observability.tracing import SPAN_NAME, STREAM_ID, ExporterMissing, Tracing, otlp_provider

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"
TRACEPARENT = CIMultiDict({"Traceparent": f"00-{TRACE}-{PARENT}-01"})


class Traced:
    """Tracing into memory."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracing = Tracing(provider)


def test_a_stream_is_one_server_span_with_its_stream_id() -> None:
    traced = Traced()
    with traced.tracing.stream_span("st_1", {}) as stream:
        assert traced.exporter.get_finished_spans() == ()
    [span] = traced.exporter.get_finished_spans()
    assert span.name == SPAN_NAME
    assert span.kind is trace.SpanKind.SERVER
    assert span.attributes == {STREAM_ID: "st_1"}
    assert span.parent is None
    assert span.context is not None
    assert f"{span.context.trace_id:032x}" == stream.trace_id


def test_a_stream_joins_the_trace_its_client_sent() -> None:
    traced = Traced()
    with traced.tracing.stream_span("st_1", TRACEPARENT) as stream:
        pass
    [span] = traced.exporter.get_finished_spans()
    assert stream.trace_id == TRACE
    assert span.parent is not None
    assert f"{span.parent.span_id:016x}" == PARENT


def test_spans_made_inside_are_children_of_the_stream() -> None:
    traced = Traced()
    with traced.tracing.stream_span("st_1", {}):
        assert trace.get_current_span().is_recording()
    assert not trace.get_current_span().is_recording()


def test_an_exception_is_recorded_and_goes_on() -> None:
    traced = Traced()
    with pytest.raises(RuntimeError, match="lost"), traced.tracing.stream_span("st_1", {}):
        raise RuntimeError("lost")
    [span] = traced.exporter.get_finished_spans()
    assert span.status.status_code is trace.StatusCode.ERROR
    assert [event.name for event in span.events] == ["exception"]


def test_without_a_provider_each_stream_still_has_its_own_trace_id() -> None:
    off = Tracing(None)
    with off.stream_span("st_1", {}) as one, off.stream_span("st_2", {}) as other:
        assert not trace.get_current_span().is_recording()
    assert re.fullmatch("[0-9a-f]{32}", one.trace_id)
    assert one.trace_id != other.trace_id
    off.shutdown()


def test_without_a_provider_the_trace_id_of_the_client_is_kept() -> None:
    with Tracing(None).stream_span("st_1", TRACEPARENT) as stream:
        assert stream.trace_id == TRACE


@pytest.mark.parametrize("header", ["", "nonsense", f"00-{'0' * 32}-{PARENT}-01", f"ff-{TRACE}-{PARENT}-01"])
@pytest.mark.parametrize("made", [Tracing(None), Traced().tracing])
def test_a_traceparent_that_is_none_is_ignored(header: str, made: Tracing) -> None:
    with made.stream_span("st_1", {"traceparent": header}) as stream:
        assert stream.trace_id != TRACE
        assert int(stream.trace_id, 16) != 0


@pytest.mark.parametrize("made", [Tracing(None), Traced().tracing])
def test_what_is_logged_inside_carries_the_ids_and_nothing_after_does(made: Tracing) -> None:
    def bound() -> Mapping[str, object]:
        return structlog.contextvars.get_contextvars()

    with made.stream_span("st_1", {}) as stream:
        assert bound() == {"stream_id": "st_1", "trace_id": stream.trace_id}
    assert bound() == {}


def test_shutting_down_sends_what_is_left() -> None:
    class Provider(TracerProvider):
        stopped = 0

        def shutdown(self) -> None:
            self.stopped += 1
            super().shutdown()

    provider = Provider(shutdown_on_exit=False)
    Tracing(provider).shutdown()
    assert provider.stopped == 1


def test_no_endpoint_means_no_provider() -> None:
    assert otlp_provider("") is None


def test_an_endpoint_without_the_exporter_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "_OTLP", "perch_no_such_exporter")
    with pytest.raises(ExporterMissing, match=r"http://collector:4317.*pip install \"perch-asr\[otlp\]\""):
        otlp_provider("http://collector:4317")


def test_an_endpoint_with_the_exporter_gets_the_spans(monkeypatch: pytest.MonkeyPatch) -> None:
    endpoints: list[str] = []
    exporter = InMemorySpanExporter()

    def make(endpoint: str, timeout: float) -> InMemorySpanExporter:
        assert 0 < timeout <= 5
        endpoints.append(endpoint)
        return exporter

    monkeypatch.setitem(
        sys.modules, tracing._OTLP, cast("ModuleType", SimpleNamespace(OTLPSpanExporter=make))
    )
    provider = otlp_provider("http://collector:4317")
    assert provider is not None
    with Tracing(provider).stream_span("st_1", {}):
        pass
    provider.force_flush()
    assert endpoints == ["http://collector:4317"]
    assert [span.name for span in exporter.get_finished_spans()] == [SPAN_NAME]
    assert exporter.get_finished_spans()[0].resource.attributes["service.name"] == "perch"
    provider.shutdown()
