"""What an operator sees of one session with the gateway: two log lines, a span, numbers, one trace id in all."""

import io
import json
import logging
from collections.abc import Iterator
from importlib import resources
from typing import Any

import pytest
import structlog
from aiohttp import ClientSession, WSMsgType
from jsonschema import Draft202012Validator
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client.parser import text_string_to_metric_families

from load_tool.gateways import mock_gateway
from perch.observability.logging import configure_logging
from perch.observability.metrics import Metrics
from perch.observability.tracing import Tracing
from perch.server.dialects import STREAM_PATH

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
HEADERS = {"Traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}
LOUD = b"\x00\x40" * 16_000
KEY = "pk-correct-horse-battery"


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """What this process logs, as JSON lines; afterwards logging is as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    configure_logging(level="debug", fmt="json", stream=stream, secrets=(KEY,))
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def session_lines(log: io.StringIO) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    return [line for line in lines if line["event"].startswith("session_")]


async def speak(host: str, *, say: bytes = LOUD, query: str = "") -> list[dict[str, Any]]:
    """One whole session; the events it was sent."""
    async with (
        ClientSession() as http,
        http.ws_connect(host + STREAM_PATH + query, headers=HEADERS) as socket,
    ):
        await socket.send_json({"type": "start", "config": {}})
        await socket.send_bytes(say)
        await socket.send_json({"type": "stop"})
        return [message.json() async for message in socket if message.type is WSMsgType.TEXT]


async def test_a_session_leaves_two_lines_that_fit_the_schema(log: io.StringIO) -> None:
    async with mock_gateway() as host:
        events = await speak(host)
    schema = json.loads(resources.files("perch.observability").joinpath("log_schema.json").read_text())
    started, ended = session_lines(log)
    for line in (started, ended):
        Draft202012Validator(schema).validate(line)
    assert (started["event"], ended["event"]) == ("session_started", "session_ended")
    assert started["stream_id"] == ended["stream_id"] == events[0]["stream_id"]
    assert (ended["outcome"], ended["audio_s"], ended["bytes"]) == ("done", 1.0, len(LOUD))
    assert ended["rtfx"] > 1, "a second of audio that was sent at once"


async def test_one_trace_id_joins_the_client_the_logs_and_the_span(log: io.StringIO) -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    async with mock_gateway(tracing=Tracing(provider)) as host:
        await speak(host)
    spans = exporter.get_finished_spans()
    assert {f"{span.context.trace_id:032x}" for span in spans if span.context is not None} == {TRACE}
    assert {"perch.stream", "perch.utterance"} == {span.name for span in spans}
    assert {line["trace_id"] for line in session_lines(log)} == {TRACE}


async def test_neither_words_nor_keys_are_logged(log: io.StringIO) -> None:
    async with mock_gateway(api_keys=(KEY,)) as host:
        events = await speak(host, query=f"?api_key={KEY}")
    [text] = [event["text"] for event in events if event["type"] == "done"]
    assert text
    assert text not in log.getvalue()
    assert KEY not in log.getvalue()


async def test_the_session_is_counted() -> None:
    metrics = Metrics()
    async with mock_gateway(metrics) as host:
        sent = [event["type"] for event in await speak(host)]
    value = scraped(metrics.render()[0].decode())
    assert value["perch_sessions_closed_total", "done"] == 1
    assert value["perch_sessions_active",] == 0
    assert value["perch_audio_seconds_total",] == 1.0
    for kind in ("partial", "final"):
        assert value["perch_events_sent_total", kind] == sent.count(kind) > 0
        assert value[f"perch_{kind}_latency_seconds_count",] == sent.count(kind)


async def test_anybody_can_scrape_the_gateway() -> None:
    async with (
        mock_gateway(api_keys=(KEY,)) as host,
        ClientSession() as http,
        http.get(host + "/metrics") as response,
    ):
        assert response.content_type == "text/plain"
        assert scraped(await response.text())["perch_engine_ready",] == 1


def scraped(exposition: str) -> dict[tuple[str, ...], float]:
    """Values by name and label values."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(exposition)
        for sample in family.samples
    }
