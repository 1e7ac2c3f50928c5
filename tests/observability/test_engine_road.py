"""What is counted and traced of the road to the engine, over real engines that are killed (rows 003-091, 003-092)."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from jsonschema import Draft202012Validator
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs

from engines import scripted_engine
from fakes.riva_server import ScriptedRiva, response, result, serving
from gateways import SCHEMA, check_event, cut
from load_tool.gateways import listening
from perch.asr.riva_client import RivaASRClient, RivaConfig
from perch.asr.stream import StreamConfig
from perch.audio.tones import synthesise
from perch.observability.engine import EngineWatch
from perch.observability.metrics import EndpointSample, Metrics, Snapshot
from perch.observability.tracing import ATTEMPT, SPAN_NAME, UTTERANCE, Tracing
from perch.server.app import build_app
from perch.server.config import GatewayConfig
from perch.server.dialects import STREAM_PATH
from perch.server.scrape import merged
from transports import channel

pytestmark = pytest.mark.usefixtures("transport")

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE}-00f067aa0ba902b7-01"
SPEECH = synthesise(["hello bird", "stop now"])


class Watched:
    """A gateway's metrics and spans."""

    def __init__(self, *, traced: bool = True) -> None:
        self.metrics = Metrics()
        self._exporter = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracing = Tracing(provider if traced else None)

    def spans(self, name: str) -> list[ReadableSpan]:
        return [span for span in self._exporter.get_finished_spans() if span.name == name]

    def value(self, name: str, **labels: str) -> float:
        return values(self.metrics.render()[0])[name, tuple(sorted(labels.items()))]

    @asynccontextmanager
    async def gateway(self, *engines: str, **config: Any) -> AsyncIterator[str]:
        client = RivaASRClient(
            RivaConfig(endpoints=engines, channel=channel(), stream=StreamConfig(replay_speed=100.0)),
            watch=EngineWatch(self.metrics, self.tracing),
        )
        app = build_app(GatewayConfig(tls=None, **config), client, self.metrics, self.tracing)
        async with listening(app) as address:
            yield address


def values(exposition: bytes) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(exposition.decode())
        for sample in family.samples
    }


async def until(holds: Callable[[], bool]) -> None:
    """Wait for what nobody announces."""
    async with asyncio.timeout(30):
        while not holds():  # noqa: ASYNC110 - a counter is no event
            await asyncio.sleep(0.01)


async def speak(address: str, audio: bytes = SPEECH, pace_s: float = 0.0) -> list[dict[str, Any]]:
    async with (
        aiohttp.ClientSession() as http,
        http.ws_connect(address + STREAM_PATH, headers={"Traceparent": PARENT}) as socket,
    ):
        for frame in cut(audio):
            await socket.send_bytes(frame)
            await asyncio.sleep(pace_s)
        await socket.send_json({"type": "stop"})
        return [message.json() async for message in socket]


async def test_a_stream_has_a_span_for_each_attempt_and_each_utterance() -> None:
    watched = Watched()
    async with scripted_engine() as engine, watched.gateway(engine.address) as address:
        events = await speak(address)
    [stream], [attempt], utterances = map(watched.spans, (SPAN_NAME, ATTEMPT, UTTERANCE))
    assert stream.context is not None
    for span in (attempt, *utterances):
        assert span.parent is not None
        assert span.parent.span_id == stream.context.span_id
    assert dict(attempt.attributes or {}) == {"server.address": engine.address}
    finals = [event for event in events if event["type"] == "final"]
    assert [dict(span.attributes or {}) for span in utterances] == [
        {"perch.segment": final["segment"], "perch.words": len(final["words"])} for final in finals
    ]
    for span, final in zip(utterances, finals, strict=True):
        assert span.end_time is not None
        assert span.start_time is not None
        assert (span.end_time - span.start_time) / 1e9 >= final["end"] - final["start"]


@pytest.mark.parametrize("traced", [True, False])
async def test_riva_is_told_of_the_clients_trace(traced: bool) -> None:
    """Without spans of its own the gateway hands on what the client sent."""
    watched = Watched(traced=traced)
    riva = ScriptedRiva(at_end=[response(result("hello", final=True))])
    async with serving(riva) as engine, watched.gateway(engine) as address:
        await speak(address)
    [told] = [value for call in riva.calls for key, value in call.metadata if key == "traceparent"]
    _, trace_id, span_id, _ = told.split("-")
    assert trace_id == TRACE
    if traced:
        [attempt] = watched.spans(ATTEMPT)
        assert attempt.context is not None
        assert span_id == f"{attempt.context.span_id:016x}"
    else:
        assert told == PARENT


async def test_a_client_that_sent_no_trace_gets_one_and_riva_none_without_spans() -> None:
    watched = Watched(traced=False)
    riva = ScriptedRiva(at_end=[response(result("hello", final=True))])
    async with serving(riva) as engine, watched.gateway(engine) as address, aiohttp.ClientSession() as http:
        async with http.ws_connect(address + STREAM_PATH) as socket:
            await socket.send_bytes(SPEECH)
            await socket.send_json({"type": "stop"})
            ready = (await socket.receive()).json()
            assert socket._response.headers["X-Trace-ID"] == ready["trace_id"]
            assert [m async for m in socket]
    assert "traceparent" not in {key for call in riva.calls for key, _ in call.metadata}


async def test_ready_and_errors_name_the_trace() -> None:
    watched = Watched()
    async with scripted_engine() as engine, watched.gateway(engine.address) as address:
        async with (
            aiohttp.ClientSession() as http,
            http.ws_connect(address + STREAM_PATH, headers={"Traceparent": PARENT}) as socket,
        ):
            await socket.send_json({"type": "start"})
            ready = await socket.receive_json()
            await socket.send_str("no JSON")
            error = await socket.receive_json()
    for event in (ready, error):
        check_event(event)
        assert event["trace_id"] == TRACE
    assert error["type"] == "error"
    assert SCHEMA["$defs"]["error"]["properties"]["trace_id"]


async def test_an_engine_killed_mid_stream_is_a_failover_a_replay_and_two_attempts() -> None:
    watched = Watched()
    async with scripted_engine() as first, scripted_engine() as second:
        async with watched.gateway(first.address, second.address) as address:
            speaking = asyncio.create_task(speak(address, pace_s=0.05))
            await until(lambda: watched.value("perch_events_sent_total", kind="partial") > 0)
            await first.stop(0)
            assert (await speaking)[-1]["type"] == "done"
    assert watched.value("perch_engine_failovers_total", code="engine_unavailable") == 1
    assert watched.value("perch_replayed_audio_seconds_total") > 0
    assert watched.value("perch_engine_attempts_total", outcome="engine_unavailable") >= 1
    assert watched.value("perch_engine_attempts_total", outcome="done") == 1
    failed, went_on = watched.spans(ATTEMPT)[0], watched.spans(ATTEMPT)[-1]
    assert not failed.status.is_ok
    assert dict(went_on.attributes or {}) == {"server.address": second.address}


async def test_every_stage_and_latency_of_a_session_is_measured() -> None:
    watched = Watched()
    async with scripted_engine() as engine, watched.gateway(engine.address) as address:
        events = await speak(address)
        async with aiohttp.ClientSession() as http, http.get(address + "/metrics") as scrape:
            now = values(await scrape.read())
    finals = sum(event["type"] == "final" for event in events)
    assert now["perch_engine_streams", (("endpoint", engine.address),)] == 0
    assert now["perch_engine_breaker", (("endpoint", engine.address), ("state", "closed"))] == 1
    assert now["perch_first_partial_latency_seconds_count", ()] == 1
    assert now["perch_speech_end_to_final_seconds_count", ()] == finals > 0
    assert now["perch_session_rtfx_count", ()] == 1
    for stage in ("ws_in", "engine_write", "engine_read", "ws_out"):
        assert now["perch_stage_seconds_count", (("stage", stage),)] > 0, stage


async def test_what_is_held_and_how_far_behind_is_seen_while_an_engine_sleeps() -> None:
    watched = Watched()
    async with serving(ScriptedRiva()) as engine, watched.gateway(engine) as address:
        async with aiohttp.ClientSession() as http, http.ws_connect(address + STREAM_PATH) as socket:
            await socket.send_bytes(SPEECH)
            assert (await socket.receive_json())["type"] == "ready"

            async def scraped() -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
                async with http.get(address + "/metrics") as scrape:
                    return values(await scrape.read())

            now = await scraped()
            async with asyncio.timeout(30):
                while not now["perch_engine_streams", (("endpoint", engine),)]:
                    now = await scraped()
            assert now["perch_spool_bytes", ()] == len(SPEECH)


async def test_a_client_that_comes_back_is_counted_and_so_is_one_nobody_knows() -> None:
    watched = Watched()
    async with scripted_engine() as engine, watched.gateway(engine.address) as address:
        async with aiohttp.ClientSession() as http:
            async with http.ws_connect(address + STREAM_PATH) as socket:
                await socket.send_bytes(SPEECH)
                ready = await socket.receive_json()
                connection = socket._response.connection
                assert connection is not None
                assert connection.transport is not None
                connection.transport.abort()
            for token in (ready["resume"]["token"], "no such token"):
                async with http.ws_connect(address + STREAM_PATH) as socket:
                    await socket.send_json({"type": "resume", "token": token, "last_seq": 1})
                    await socket.receive_json()
                    await socket.close()
    assert watched.value("perch_resumes_total", source="here") == 1
    assert watched.value("perch_resumes_total", source="unknown") == 1


@pytest.mark.parametrize("switched_on", [True, False])
async def test_what_was_said_is_logged_only_where_that_is_switched_on(switched_on: bool) -> None:
    watched = Watched()
    async with scripted_engine() as engine:
        async with watched.gateway(engine.address, log_transcripts=switched_on) as address:
            with capture_logs() as lines:
                events = await speak(address)
    logged = [line["text"] for line in lines if line["event"] == "transcript"]
    said = [event["text"] for event in events if event["type"] == "final"]
    assert logged == (said if switched_on else [])
    assert switched_on or not any(text in json.dumps(line, default=str) for line in lines for text in said)
    schema = json.loads(
        (Path(__file__).parents[2] / "src/perch/observability/log_schema.json").read_text(encoding="utf-8")
    )
    kinds = schema["properties"]["event"]["enum"]
    assert "transcript" in kinds
    Draft202012Validator.check_schema(schema)


def test_processes_behind_one_port_are_one_exposition_with_a_label_each() -> None:
    one, other = Metrics(), Metrics()
    one.session_opened()
    other.session_opened()
    other.session_opened()
    sample = Snapshot(endpoints=(EndpointSample("riva:1", 2, "open"),))
    body = merged([("a", one.render(sample)[0]), ("b", other.render(sample)[0])])
    now = values(body)
    assert now["perch_sessions_opened_total", (("process", "a"),)] == 1
    assert now["perch_sessions_opened_total", (("process", "b"),)] == 2
    assert now["perch_engine_streams", (("endpoint", "riva:1"), ("process", "b"))] == 2
    helps = [line for line in body.splitlines() if line.startswith(b"# HELP ")]
    assert len(helps) == len(set(helps))


async def test_any_process_behind_a_shared_port_answers_for_all(tmp_path: Path) -> None:
    one, other = Watched(), Watched()
    shared = {"reuse_port": True, "state_dir": tmp_path}
    async with (
        scripted_engine() as engine,
        one.gateway(engine.address, **shared) as first,
        other.gateway(engine.address, **shared) as second,
        aiohttp.ClientSession() as http,
    ):
        await speak(first)
        await speak(second)
        await speak(second)
        for address in (first, second):
            async with http.get(address + "/metrics") as scrape:
                opened = [
                    value
                    for (name, _), value in values(await scrape.read()).items()
                    if name == "perch_sessions_opened_total"
                ]
            assert sorted(opened) == [1, 2]
