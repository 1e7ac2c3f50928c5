"""The batch engine: recordings in, segments out, over the real server with a weightless model."""

import asyncio
import json
import os
import signal
import sys
import wave
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import jsonschema
import pytest

from deploy.engines.loading import BATCH, described, module
from engines import finals, recognise, texts
from perch.audio.tones import Timing, synthesise
from perch.engine.sdk import Engine, TaskInput
from perch.engine.worker import WorkerSettings, loader, read
from perch.errors import BadAudio, BadConfig, LanguageUnsupported, ModelUnavailable
from perch.inference.recogniser import Recogniser
from perch.inference.scripted import CAPABILITIES, ScriptedRecogniser
from perch.registry.catalogue import Entry
from perch.riva.proto import asr_grpc

engine_py = module(BATCH)
SPOKEN = ("hello perch", "one two three")
TIMING = Timing(pause_s=1.5, tail_s=0.3)


async def weightless(entry: Entry) -> Recogniser:
    return ScriptedRecogniser(replace(CAPABILITIES, model=entry.id, languages=entry.languages, slots=2))


def settings() -> WorkerSettings:
    told = {"MAX_SESSIONS": "2", "WORKER_HOST": "127.0.0.1", "WORKER_PORT": "0"}
    return read(told, model=engine_py.DEFAULT)


@pytest.fixture
async def engine() -> AsyncIterator[Any]:
    started = engine_py.ParakeetEngine(settings(), weightless)
    yield started
    await started.shutdown()


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    path = tmp_path / "talk.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(synthesise(SPOKEN, TIMING))
    return path


def task(recording: Path, **config: Any) -> TaskInput:
    return TaskInput("task_1", "job_1", recording, config=config)


async def test_a_recording_becomes_segments_with_words_and_seconds(engine: Any, recording: Path) -> None:
    """004-02, 004-07, 004-10."""
    assert isinstance(engine, Engine)
    output = (await engine.process(task(recording))).data
    jsonschema.validate(output, described(BATCH)["output_schema"])
    assert json.loads(json.dumps(output)) == output
    assert [segment["text"] for segment in output["segments"]] == list(SPOKEN)
    assert [segment["id"] for segment in output["segments"]] == ["seg_000", "seg_001"]
    assert (output["text"], output["model"]) == ("hello perch one two three", "parakeet-0.6b")
    times = [t for segment in output["segments"] for w in segment["words"] for t in (w["start"], w["end"])]
    assert times == sorted(times)
    seconds = len(synthesise(SPOKEN, TIMING)) / 32_000
    assert 0 < times[0] < times[-1] < seconds, "seconds of the recording, not samples"


async def test_silence_is_no_segments(engine: Any, tmp_path: Path) -> None:
    path = tmp_path / "silence.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(bytes(64_000))
    output = (await engine.process(task(path))).data
    jsonschema.validate(output, described(BATCH)["output_schema"])
    assert (output["segments"], output["text"]) == ([], "")


async def test_the_variant_switches_with_the_task_and_one_at_a_time_is_loaded(
    engine: Any, recording: Path
) -> None:
    """004-04."""
    outputs = [
        (await engine.process(task(recording, model=name))).data["model"]
        for name in ("parakeet-rnnt-1.1b", "parakeet-rnnt-0.6b", "nvidia/parakeet-rnnt-1.1b")
    ]
    assert outputs == ["parakeet-1.1b", "parakeet-0.6b", "parakeet-1.1b"]
    assert (await engine.health_check()).details["models"] == "parakeet-1.1b"


@pytest.mark.parametrize(
    ("config", "error", "message"),
    [
        ({"model": "whisper"}, ModelUnavailable, "it has parakeet-rnnt-0.6b, parakeet-rnnt-1.1b"),
        ({"model": "parakeet-ctc-0.6b"}, ModelUnavailable, "it has parakeet-rnnt-0.6b, parakeet-rnnt-1.1b"),
        ({"language": "fr"}, LanguageUnsupported, "only supports English"),
        ({"beam": 5}, BadConfig, "beam; there is: model, language"),
    ],
)
async def test_what_it_has_not_is_refused_with_what_it_has(
    engine: Any, recording: Path, config: dict[str, Any], error: type[Exception], message: str
) -> None:
    """004-04, 004-30."""
    with pytest.raises(error, match=message):
        await engine.process(task(recording, **config))


async def test_tasks_given_together_are_all_done(engine: Any, recording: Path) -> None:
    outputs = await asyncio.gather(*(engine.process(task(recording)) for _ in range(3)))
    assert {output.data["text"] for output in outputs} == {"hello perch one two three"}


async def test_a_recording_that_is_none_fails_its_task_only(
    engine: Any, recording: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"no audio at all")
    with pytest.raises(BadAudio):
        await engine.process(task(broken))
    assert (await engine.process(task(recording))).data["segments"]


async def test_it_serves_rivas_grpc_while_it_runs_and_takes_tasks_by_the_same_model(
    engine: Any, recording: Path
) -> None:
    """004-33: healthy, and an unmodified Riva client is served."""
    running = asyncio.create_task(engine.run())
    async with asyncio.timeout(20):
        while not engine.port:  # noqa: ASYNC110 it has no event for others
            await asyncio.sleep(0.02)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{engine.port}") as channel:
        responses = await recognise(
            asr_grpc.RivaSpeechRecognitionStub(channel), synthesise(SPOKEN, TIMING), language_code="en-US"
        )
    assert [text.strip() for text in texts(finals(responses))] == list(SPOKEN)
    await engine.process(task(recording))
    health = await engine.health_check()
    assert (health.status, health.details["models"]) == ("healthy", "parakeet-0.6b"), "it is loaded once"
    await engine.shutdown()
    async with asyncio.timeout(30):
        await running


async def test_without_weights_it_says_how_to_get_them(recording: Path, tmp_path: Path) -> None:
    told = replace(settings(), models_dir=tmp_path, backend="nemo")
    engine = engine_py.ParakeetEngine(told, loader(told, {}, mode="vad-segmented"))
    with pytest.raises(BadConfig, match=r"perch models pull parakeet-0\.6b --backend nemo"):
        await engine.process(task(recording))


async def script(*arguments: str, **environment: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *(str(BATCH / "engine.py"), *arguments),
        env={**os.environ, "PARAKEET_BACKEND": "tones", "MAX_SESSIONS": "1", **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def test_the_script_prints_the_output_of_one_recording(recording: Path) -> None:
    process = await script(str(recording), "--model", "parakeet-rnnt-0.6b", PARAKEET_WEIGHTS="nowhere")
    async with asyncio.timeout(30):
        printed, complaints = await process.communicate()
    assert process.returncode == 0, complaints.decode()
    output = json.loads(printed)
    jsonschema.validate(output, described(BATCH)["output_schema"])
    assert output["model"] == "parakeet-0.6b"


async def test_the_script_says_that_a_file_is_not_there_and_loads_nothing() -> None:
    process = await script("gone.wav", PARAKEET_WEIGHTS="nowhere")
    async with asyncio.timeout(30):
        _, complaints = await process.communicate()
    assert process.returncode == 1
    assert complaints.decode() == "engine: There is no file gone.wav.\n"


async def test_the_script_without_a_gpu_fails_at_once_and_says_why(tmp_path: Path) -> None:
    """004-06: the default device is CUDA. PyTorch is stood in for, as far as it is asked."""
    (tmp_path / "torch.py").write_text(
        "class cuda:\n    is_available = staticmethod(lambda: False)\n"
        "class backends:\n    class cuda:\n        enable_cudnn_sdp = staticmethod(lambda enabled: None)\n"
    )
    (tmp_path / "transformers").mkdir()
    (tmp_path / "transformers/__init__.py").write_text(
        "class logging:\n"
        "    set_verbosity_error = staticmethod(lambda: None)\n"
        "    disable_progress_bar = staticmethod(lambda: None)\n"
        "class utils:\n    logging = logging\n"
    )
    process = await script(
        PYTHONPATH=str(tmp_path),
        PARAKEET_BACKEND="transformers",
        PARAKEET_WEIGHTS=str(tmp_path),
        WORKER_PORT="0",
    )
    async with asyncio.timeout(30):
        _, complaints = await process.communicate()
    assert process.returncode == 1
    assert complaints.decode().splitlines()[-1].startswith("engine: There is no CUDA device")


async def test_the_script_ends_with_status_0_when_it_is_told_to() -> None:
    process = await script(PARAKEET_WEIGHTS="nowhere", WORKER_HOST="127.0.0.1", WORKER_PORT="0")
    assert process.stderr is not None
    async with asyncio.timeout(30):
        while b"loading parakeet-0.6b" not in (line := await process.stderr.readline()):
            assert line, "it ended by itself"
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
