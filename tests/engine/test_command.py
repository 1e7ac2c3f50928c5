"""``perch engine`` as a process: ready, signalled, orphaned."""

import argparse
import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import grpc
import psutil
import pytest

from engines import Conversation, finals, recognise, texts, tone_speech
from perch.cli import engine
from perch.cli.main import main
from perch.inference.loader import RECOGNISERS
from perch.riva.proto import asr_grpc

SPEECH = tone_speech("hello perch")
START_S = 20.0
STOP_S = 5.0


@asynccontextmanager
async def command(
    *arguments: str, recogniser: str = "scripted", fds: tuple[int, ...] = ()
) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "perch", "engine", "--recogniser", recogniser, *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        pass_fds=fds,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


async def ready_port(read_fd: int) -> int:
    """The port the engine announces on the pipe; an engine that dies first closes it empty."""
    async with asyncio.timeout(START_S):
        return int(await asyncio.to_thread(os.read, read_fd, 16))


@asynccontextmanager
async def running(
    *arguments: str, recogniser: str = "scripted", fds: tuple[int, ...] = ()
) -> AsyncIterator[tuple[asyncio.subprocess.Process, int]]:
    """A command that serves, and its port."""
    ready_read, ready_write = os.pipe()
    try:
        async with command(
            *("--port", "0", "--ready-fd", str(ready_write), *arguments),
            recogniser=recogniser,
            fds=(ready_write, *fds),
        ) as process:
            os.close(ready_write)
            yield process, await ready_port(ready_read)
    finally:
        os.close(ready_read)


async def exit_status(process: asyncio.subprocess.Process) -> int:
    async with asyncio.timeout(STOP_S):
        return await process.wait()


@asynccontextmanager
async def open_stream(port: int) -> AsyncIterator[Conversation]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        conversation = Conversation(asr_grpc.RivaSpeechRecognitionStub(channel))
        await conversation.configure()
        await conversation.speak(SPEECH)
        yield conversation


async def test_it_says_where_it_listens_recognises_and_ends_with_status_0_on_sigterm() -> None:
    async with running() as (process, port):
        assert process.stdout is not None
        line = (await process.stdout.readline()).decode()
        assert (
            line
            == f"perch engine: listening on 127.0.0.1:{port}, model scripted, vad-segmented, 4096 streams\n"
        )
        assert b"tone words only" in await process.stdout.readline()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            responses = await recognise(asr_grpc.RivaSpeechRecognitionStub(channel), SPEECH)
        assert texts(finals(responses)) == ["hello perch"]
        process.send_signal(signal.SIGTERM)
        assert await exit_status(process) == 0


async def test_a_signal_lets_open_streams_finish() -> None:
    async with running("--grace", "30") as (process, port), open_stream(port) as conversation:
        process.send_signal(signal.SIGINT)
        assert texts(finals(await conversation.hang_up())) == ["hello perch"]
        assert await exit_status(process) == 0


async def test_a_second_signal_does_not_wait_for_open_streams() -> None:
    async with running("--grace", "300") as (process, port), open_stream(port):
        process.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.2)
        assert process.returncode is None
        process.send_signal(signal.SIGTERM)
        assert await exit_status(process) == 0


async def test_it_ends_when_its_parent_does() -> None:
    parent_read, parent_write = os.pipe()
    async with running("--parent-fd", str(parent_read), fds=(parent_read,)) as (process, _):
        os.close(parent_read)
        os.close(parent_write)
        assert await exit_status(process) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--model", "whisper"), "whisper is neither a file or folder nor a model"),
        (("--tls-cert", "missing.pem"), "both --tls-cert and --tls-key"),
        (("--tls-cert", "missing.pem", "--tls-key", "missing.key"), "missing.pem"),
        (("--host", "203.0.113.1"), "cannot listen on 203.0.113.1"),
    ],
)
async def test_what_cannot_work_is_said_in_one_line_and_status_1(
    arguments: tuple[str, ...], message: str
) -> None:
    async with command("--port", "0", *arguments) as process:
        async with asyncio.timeout(START_S):
            _, stderr = await process.communicate()
        assert process.returncode == 1
        ours = [line for line in stderr.decode().splitlines() if line.startswith("perch engine: ")]
        assert len(ours) == 1
        assert message in ours[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--port", "99999"), "--port: must be 0 to 65535"),
        (("--port", "-1"), "--port: must be 0 to 65535"),
        (
            ("--languages", "en-US,klingon"),
            "--languages: 'klingon' is not a language tag such as en or en-US",
        ),
    ],
)
def test_options_that_make_no_sense_are_refused_with_status_2(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as refused:
        main(["engine", *arguments])
    assert refused.value.code == 2
    assert message in capsys.readouterr().err


def test_every_recogniser_may_be_chosen_and_auto_which_chooses_one() -> None:
    assert set(engine.RECOGNISERS) == {"auto", *RECOGNISERS}


async def test_a_backend_that_there_is_not_is_told_with_those_there_are(tmp_path: Path) -> None:
    async with command("--port", "0", "--model", str(tmp_path), "--backend", "bogus") as process:
        async with asyncio.timeout(START_S):
            _, stderr = await process.communicate()
    assert process.returncode == 1
    told = stderr.decode().splitlines()[-1]
    assert told.endswith("no backend named 'bogus'; there are: sherpa-onnx, transformers, nemo.")


def test_languages_are_published_as_they_are_usually_written(tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    engine.add_arguments(parser)
    args = parser.parse_args(["--model", str(tmp_path), "--languages", "de_DE, en-us"])
    assert engine.options_of(args).languages == ("de-DE", "en-US")


async def test_a_port_that_is_taken_is_told_before_anything_is_loaded() -> None:
    """Without a model that could be loaded, nothing but the port can be complained of first."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        async with command("--port", port, "--model", "nowhere") as process:
            async with asyncio.timeout(START_S):
                _, stderr = await process.communicate()
    assert process.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}" in stderr.decode()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
async def test_the_end_may_be_asked_for_while_a_model_is_loaded(
    tmp_path: Path, number: signal.Signals, status: int
) -> None:
    tiny_onnx = pytest.importorskip("inference.parakeet.tiny_onnx")
    model = ("--model", str(tiny_onnx.build_streaming(tmp_path / "tiny")))
    async with command("--port", "0", *model) as process:
        assert process.stderr is not None
        async with asyncio.timeout(START_S):
            while b"loading" not in await process.stderr.readline():
                pass
        process.send_signal(number)
        async with asyncio.timeout(START_S):
            stdout, stderr = await process.communicate()
    assert (process.returncode, stdout) == (status, b"")
    assert b"Traceback" not in stderr


async def test_with_the_embedded_recogniser_it_takes_its_workers_along_when_its_parent_ends() -> None:
    parent_read, parent_write = os.pipe()
    arguments = ("--parent-fd", str(parent_read))
    async with running(*arguments, recogniser="embedded", fds=(parent_read,)) as (process, port):
        os.close(parent_read)
        async with open_stream(port) as conversation:
            workers = psutil.Process(process.pid).children(recursive=True)
            assert len(workers) == 2  # the one that has the model, and its fork for this stream
            await conversation.hang_up()
            assert await conversation.call.code() is grpc.StatusCode.OK
        os.close(parent_write)
        assert await exit_status(process) == 0
    _, alive = await asyncio.to_thread(psutil.wait_procs, workers, timeout=STOP_S)
    assert alive == []


async def test_killed_outright_it_leaves_no_worker_behind() -> None:
    async with running(recogniser="embedded") as (process, port), open_stream(port):
        workers = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        _, alive = await asyncio.to_thread(psutil.wait_procs, workers, timeout=STOP_S)
    assert alive == []
