"""The realtime engine: live streams over the real server, registered in a real Redis while it runs."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import grpc
import jsonschema
import numpy as np
import pytest
from redis.asyncio import Redis

from deploy.engines.loading import REALTIME, described, module
from engines import Conversation, finals, interims, recognise, texts, tone_speech
from perch.engine.sdk import RealtimeEngine
from perch.engine.worker import read
from perch.errors import BadConfig, LanguageUnsupported, ModelUnavailable
from perch.inference.recogniser import Recogniser
from perch.inference.scripted import CAPABILITIES, ScriptedRecogniser
from perch.registry.catalogue import Entry
from perch.riva.proto import asr_grpc
from server.redis_process import redis as running_redis

engine_py = module(REALTIME)
SPEECH = tone_speech("hello perch", "one two")
WORKER = "dalston:realtime:worker:realtime-parakeet-1"


async def weightless(entry: Entry) -> Recogniser:
    told = replace(CAPABILITIES, model=entry.id, aliases=entry.aliases, languages=entry.languages, slots=2)
    return ScriptedRecogniser(told)


def engine_with(**environment: str) -> Any:
    told = {"WORKER_HOST": "127.0.0.1", "WORKER_PORT": "0", "WORKER_ID": "realtime-parakeet-1", **environment}
    return engine_py.ParakeetStreamingEngine(read(told, model=engine_py.DEFAULT), weightless)


@pytest.fixture
async def engine() -> AsyncIterator[Any]:
    made = engine_with()
    yield made
    await made.shutdown()


@asynccontextmanager
async def running(engine: Any) -> AsyncIterator[asyncio.Task[None]]:
    await engine.load_models()
    task = asyncio.create_task(engine.run())
    try:
        yield task
    finally:
        await engine.shutdown()
        async with asyncio.timeout(30):
            await task


@asynccontextmanager
async def stub_of(engine: Any) -> AsyncIterator[Any]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{engine.port}") as channel:
        yield asr_grpc.RivaSpeechRecognitionStub(channel)


def as_floats(pcm: bytes) -> Any:
    return np.frombuffer(pcm, dtype="<i2").astype(np.float32) / 32_768


async def test_an_unmodified_riva_client_streams_to_it(engine: Any) -> None:
    """004-12, 004-18."""
    assert isinstance(engine, RealtimeEngine)
    async with running(engine), stub_of(engine) as stub:
        responses = await recognise(stub, SPEECH, language_code="en-US", model="nemotron")
    assert [text.strip() for text in texts(finals(responses))] == ["hello perch", "one two"]
    assert interims(responses), "words are told while they are spoken"


async def test_another_model_is_refused_to_a_stream(engine: Any) -> None:
    async with running(engine), stub_of(engine) as stub:
        conversation = Conversation(stub)
        await conversation.configure(language_code="en-US", model="whisper")
        code, details = await conversation.refusal()
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "model=whisper" in details


async def test_it_transcribes_what_it_is_handed(engine: Any) -> None:
    result = await engine.transcribe(as_floats(SPEECH), language="en")
    assert (result.text, result.language) == ("hello perch one two", "en")
    jsonschema.validate(json.loads(json.dumps(asdict(result))), described(REALTIME)["output_schema"])
    starts = [word.start for word in result.words]
    assert starts == sorted(starts)
    assert 0 < starts[0] < starts[-1] < len(SPEECH) / 2


async def test_what_it_does_not_have_is_refused_with_what_it_has(engine: Any) -> None:
    with pytest.raises(ModelUnavailable, match=r"it has nemotron-speech-streaming-en-0\.6b"):
        await engine.transcribe(as_floats(SPEECH), model_variant="parakeet-1.1b")
    with pytest.raises(LanguageUnsupported, match="'fr'"):
        await engine.transcribe(as_floats(SPEECH), language="fr")


async def test_it_says_what_it_has_and_how_it_is(engine: Any) -> None:
    assert (await engine.health_check()).status == "unhealthy", "nothing is loaded yet"
    assert "nemotron" in engine.get_models()
    assert list(engine.get_languages()) == described(REALTIME)["capabilities"]["languages"]
    assert (await engine.get_gpu_memory_usage()).endswith("GB")
    async with running(engine):
        health = await engine.health_check()
        assert (health.status, health.details["capacity"]) == ("healthy", 2)


async def test_while_it_runs_it_is_in_redis_drains_visibly_and_is_gone_at_its_end(tmp_path: Path) -> None:
    """004-16, 004-34."""
    async with running_redis(tmp_path) as server:
        reader = Redis.from_url(server.url, decode_responses=True)
        engine = engine_with(REDIS_URL=server.url, WORKER_ENDPOINT="realtime-parakeet-1:9000")
        async with running(engine) as task, stub_of(engine) as stub:
            ready = await _hash(reader, status="ready")
            assert (ready["capacity"], ready["endpoint"]) == ("2", "realtime-parakeet-1:9000")
            assert json.loads(ready["models_loaded"])[0] == engine_py.DEFAULT
            assert json.loads(ready["languages_supported"]) == ["en"]
            conversation = Conversation(stub)
            await conversation.configure(language_code="en-US")
            await conversation.speak(SPEECH)
            ending = asyncio.create_task(engine.shutdown())
            draining = await _hash(reader, status="draining")
            assert draining["active_sessions"] == "1"
            assert not task.done(), "an open stream is let end"
            await conversation.hang_up()
            await ending
            await task
        assert await reader.keys("*") == []
        await reader.aclose()


async def _hash(reader: Redis, *, status: str) -> dict[str, str]:
    told: dict[str, str] = {}
    async with asyncio.timeout(30):
        while told.get("status") != status:
            await asyncio.sleep(0.02)
            told = {str(key): str(value) for key, value in (await reader.hgetall(WORKER)).items()}
    return told


async def test_a_model_that_cannot_be_loaded_ends_it_with_the_reason() -> None:
    async def broken(entry: Entry) -> Recogniser:
        raise BadConfig(f"no {entry.id} here")

    settings = read({}, model=engine_py.DEFAULT)
    with pytest.raises(BadConfig, match="no nemotron"):
        await engine_py.ParakeetStreamingEngine(settings, broken).run()


async def test_where_it_cannot_be_registered_it_says_so_and_loads_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def unwanted(entry: Entry) -> Recogniser:
        raise AssertionError(f"{entry.id} is loaded")

    monkeypatch.setitem(sys.modules, "redis.asyncio", None)  # as if the extra were not installed
    settings = read({"REDIS_URL": "redis://127.0.0.1"}, model=engine_py.DEFAULT)
    with pytest.raises(BadConfig, match=r"perch-asr\[redis\]"):
        await engine_py.ParakeetStreamingEngine(settings, unwanted).run()


async def test_being_told_to_end_while_it_loads_ends_it() -> None:
    loading = asyncio.Event()

    async def endless(_: Entry) -> Recogniser:
        loading.set()
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    engine = engine_py.ParakeetStreamingEngine(read({}, model=engine_py.DEFAULT), endless)
    task = asyncio.create_task(engine.run())
    async with asyncio.timeout(30):
        await loading.wait()
        await engine.shutdown()
        await task


async def test_the_script_serves_until_a_signal() -> None:
    """A model's own process, streams in pieces of CHUNK_DURATION_MS: everything but weights is real."""
    told = {
        "PARAKEET_BACKEND": "tones",
        "PARAKEET_WEIGHTS": "nowhere",
        "CHUNK_DURATION_MS": "160",
        "MAX_SESSIONS": "3",
        "WORKER_HOST": "127.0.0.1",
        "WORKER_PORT": "0",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(REALTIME / "engine.py"),
        env={**os.environ, **told},
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    async with asyncio.timeout(40):
        while b"serving " not in (line := await process.stderr.readline()):
            assert line, "it ended by itself"
        async with grpc.aio.insecure_channel(line.split()[-1].decode()) as channel:
            stub = asr_grpc.RivaSpeechRecognitionStub(channel)
            responses = await recognise(stub, SPEECH[:64_000], language_code="en-US")
        assert len(finals(responses)) == 1
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
