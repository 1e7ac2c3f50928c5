"""``perch serve`` with weights at hand: the gateway as its user starts it, over a model in its own process."""

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from processes import Running, perch, running

pytest.importorskip("sherpa_onnx", reason="sherpa-onnx is not installed")
pytest.importorskip("onnx", reason="onnx, which writes the small model, is not installed")

from inference.parakeet.tiny_onnx import build_streaming
from perch.registry.cache import ModelCache
from perch.registry.manifest import FileFacts, Manifest, sha256_of

MODEL = "nemotron-speech-streaming-en-0.6b"


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A folder of weights that holds one small model in the place of a large one."""
    folder = ModelCache(tmp_path).place(MODEL, "sherpa-onnx")
    build_streaming(folder)
    files = {path.name: FileFacts(path.stat().st_size, sha256_of(path)) for path in folder.iterdir()}
    Manifest(MODEL, "sherpa-onnx", "test", "", files, "2026-01-01T00:00:00Z").write(folder)
    return tmp_path


def gateway(models: Path) -> Any:
    environment = {"PERCH_MODELS_DIR": str(models), "PERCH_ENGINE_SLOTS": "4"}
    return running(*perch("demo", "--port", "0"), environment=environment)


async def test_weights_that_are_here_are_used_and_everybody_is_told(models: Path) -> None:
    async with gateway(models) as at, aiohttp.ClientSession() as client:
        assert any(f"model {MODEL}, cache-aware" in line for line in at.output)
        async with client.get(f"{at.url}/ready") as response:
            ready = await response.json()
        assert (ready["model"], ready["streaming_mode"]) == (MODEL, "cache-aware")
        assert ready["engine_room"] == 4
        async with client.ws_connect(at.stream_url + "?model=nemotron") as socket:
            begun = await socket.receive_json(timeout=20)
        assert begun["model"] == MODEL
        assert begun["capabilities"]["streaming_mode"] == "cache-aware"
        assert begun["capabilities"]["chunk_ms"] == 160


async def test_without_weights_it_is_the_demonstration_and_says_how_to_get_them(tmp_path: Path) -> None:
    async with gateway(tmp_path) as at, aiohttp.ClientSession() as client:
        async with client.get(f"{at.url}/ready") as response:
            ready = await response.json()
    assert ready["model"] == "embedded-en-us"
    assert "perch models pull" in ready["notice"]


async def test_weights_that_cannot_be_run_are_the_notices_reason(tmp_path: Path) -> None:
    """They are meant for a GPU: the demonstration recogniser serves, and everybody is told why."""
    folder = ModelCache(tmp_path).place("parakeet-0.6b", "transformers")
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    files = {"config.json": FileFacts(2, sha256_of(folder / "config.json"))}
    Manifest("parakeet-0.6b", "transformers", "test", "", files, "2026-01-01T00:00:00Z").write(folder)
    async with gateway(tmp_path) as at, aiohttp.ClientSession() as client:
        assert any("parakeet-0.6b" in line for line in at.output)
        async with client.get(f"{at.url}/ready") as response:
            ready = await response.json()
    assert ready["model"] == "embedded-en-us"
    assert "weights of parakeet-0.6b" in ready["notice"]
    assert "models pull" not in ready["notice"]


@pytest.mark.parametrize("within", ["parakeet-tdt-0.6b-v3", "parakeet-tdt-0.6b-v3/sherpa-onnx"])
async def test_weights_by_path_are_called_as_their_folder(tmp_path: Path, within: str) -> None:
    folder = tmp_path / within
    build_streaming(folder)
    environment = {"PERCH_ENGINE_MODEL": str(folder), "PERCH_ENGINE_SLOTS": "1"}
    async with (
        running(*perch("demo", "--port", "0"), environment=environment) as at,
        aiohttp.ClientSession() as client,
        client.get(f"{at.url}/v1/models/parakeet-tdt-0.6b-v3") as response,
    ):
        told = await response.json()
    assert told["id"] == "parakeet-tdt-0.6b-v3"
    assert "fr" in told["capabilities"]["languages"]


async def test_a_model_process_that_is_killed_under_a_session_costs_it_nothing(models: Path) -> None:
    async with gateway(models) as at, aiohttp.ClientSession() as client:
        async with client.ws_connect(at.stream_url) as socket:
            await socket.send_bytes(bytes(32_000))
            os.kill(_worker_of(at), signal.SIGKILL)
            await socket.send_bytes(bytes(32_000))
            await socket.send_json({"type": "stop"})
            async with asyncio.timeout(40):
                events = [message.json() async for message in socket]
        assert events[-1]["type"] == "done"
        assert events[-1]["audio_s"] == 2.0


def _worker_of(at: Running) -> int:
    """The process that holds the model: a grandchild of the gateway."""
    children: dict[int, list[int]] = {}
    commands: dict[int, str] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            commands[int(folder.name)] = (folder / "cmdline").read_text()
        except OSError:
            continue
        children.setdefault(parent, []).append(int(folder.name))
    family = [at.process.pid]
    for pid in family:
        family += children.get(pid, [])
    [worker] = [pid for pid in family if "perch.inference.parakeet.worker" in commands.get(pid, "")]
    return worker


def test_an_unknown_model_is_refused_with_those_there_are() -> None:
    import subprocess

    done = subprocess.run(
        perch("engine", "--model", "parakeet-9"), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "parakeet-tdt-0.6b-v2, parakeet-tdt-0.6b-v3" in done.stderr


def test_weights_that_are_not_here_are_told_with_the_command_as_their_reader_calls_it(tmp_path: Path) -> None:
    import subprocess

    done = subprocess.run(
        perch("engine", "--model", "parakeet-tdt-0.6b-v2", "--device", "cpu", "--models-dir", str(tmp_path)),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PERCH_COMMAND": "./run"},
    )
    assert done.returncode == 1
    assert "./run models pull parakeet-tdt-0.6b-v2 --backend sherpa-onnx" in done.stderr
