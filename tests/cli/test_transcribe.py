"""``perch transcribe`` against a real gateway and a real engine: words, formats, exit codes, advice."""

import argparse
import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trustme
from aiohttp import web
from structlog.testing import capture_logs

from audio.recordings import encode, riff
from engines import scripted_engine
from perch import errors
from perch.asr.riva_client import RivaASRClient, RivaConfig
from perch.audio.tones import Timing, synthesise
from perch.cli import transcribe
from perch.cli.native_client import ServerConfig, TranscriptionFailed, stream_url
from perch.cli.native_client import transcribe as stream
from perch.core.messages import Final
from perch.observability.metrics import Metrics
from perch.observability.tracing import Tracing
from perch.server.app import build_app
from perch.server.config import GatewayConfig, ResumeConfig, TlsConfig
from perch.server.replies import error_response
from perch.server.tls import self_signed, server_context

SENTENCES = ["hello bird", "stop now"]
SPOKEN = synthesise(SENTENCES, Timing(pause_s=1.5))


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RIVA_HOST", "PERCH_API_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def wav(tmp_path: Path) -> str:
    path = tmp_path / "speech.wav"
    path.write_bytes(riff(SPOKEN))
    return str(path)


@asynccontextmanager
async def served(app: web.Application, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    try:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def gateway(tls: ssl.SSLContext | None = None, api_keys: tuple[str, ...] = ()) -> AsyncIterator[str]:
    unkept = ResumeConfig(ttl_s=0)  # nothing is written beside the tests
    async with scripted_engine() as engine:
        client = RivaASRClient(RivaConfig(endpoints=(engine.address,)))
        config = GatewayConfig(api_keys=api_keys, resume=unkept)
        app = build_app(config, client, Metrics(), Tracing(None))
        with capture_logs():  # the gateway's log is not this program's output
            async with served(app, tls) as url:
                yield url


def arguments(*argv: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    transcribe.add_arguments(parser)
    return parser.parse_args(argv)


async def run(*argv: str) -> int:
    return await transcribe.run(arguments(*argv))


# --- Words


async def test_a_recording_becomes_text_by_way_of_a_server(
    wav: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async with gateway() as url:
        assert await run(wav, "--server", url) == 0
    assert capsys.readouterr().out == "hello bird\nstop now\n"


async def test_a_recording_becomes_text_by_way_of_an_engine(
    wav: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async with scripted_engine() as engine:
        assert await run(wav, "--engine", engine.address) == 0
    assert capsys.readouterr().out == "hello bird\nstop now\n"


async def test_riva_host_names_the_engine(
    wav: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with scripted_engine() as engine:
        monkeypatch.setenv("RIVA_HOST", engine.address)
        assert await run(wav) == 0
    assert capsys.readouterr().out == "hello bird\nstop now\n"


@pytest.mark.parametrize("kind", ["mp3", "webm", "m4a"])
async def test_any_container_will_do(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / f"a.{kind}"
    path.write_bytes(encode(kind, SPOKEN))
    async with gateway() as url:
        assert await run(str(path), "--server", url) == 0
    assert capsys.readouterr().out == "hello bird\nstop now\n"


async def test_json_has_words_with_their_times(wav: str, capsys: pytest.CaptureFixture[str]) -> None:
    async with gateway() as url:
        assert await run(wav, "--server", url, "--format", "json") == 0
    document = json.loads(capsys.readouterr().out)
    first = document["segments"][0]["words"][0]
    assert document["text"] == "hello bird stop now"
    assert document["file"] == wav
    assert (first["word"], first["start"]) == ("hello", pytest.approx(0.3, abs=0.001))
    assert first["end"] == pytest.approx(0.42, abs=0.001)


async def test_subtitles_of_several_recordings_go_into_a_folder(wav: str, tmp_path: Path) -> None:
    other = tmp_path / "other.flac"
    other.write_bytes(encode("flac", SPOKEN))
    out = tmp_path / "out"
    async with gateway() as url:
        assert await run(wav, str(other), "--server", url, "--format", "srt", "-o", str(out)) == 0
    assert sorted(path.name for path in out.iterdir()) == ["other.flac.srt", "speech.wav.srt"]
    assert (out / "other.flac.srt").read_text().startswith("1\n00:00:00,300 --> ")


async def test_after_a_failure_the_other_recordings_are_still_transcribed(
    wav: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty.wav").write_bytes(b"")
    async with gateway() as url:
        status = await run(str(tmp_path / "empty.wav"), str(tmp_path / "gone.wav"), wav, "--server", url)
    output = capsys.readouterr()
    assert status == 1
    assert output.out == f"# {wav}\nhello bird\nstop now\n"
    assert "The recording is empty" in output.err
    assert "gone.wav: No such file" in output.err


# --- Pace


async def test_audio_never_runs_further_ahead_than_asked() -> None:
    ahead: list[float] = []

    async def slow(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(protocols=("perch.v1",))
        await socket.prepare(request)
        assert (await socket.receive_json())["type"] == "start"
        received = acknowledged = 0
        while True:
            try:
                frame = await asyncio.wait_for(socket.receive(), 0.05)
            except TimeoutError:
                acknowledged = received
                await socket.send_json({"type": "ack", "audio_s": acknowledged / 32_000})
                continue
            if not isinstance(frame.data, bytes):
                break
            received += len(frame.data)
            ahead.append((received - acknowledged) / 32_000)
        await socket.send_json({"type": "done", "audio_s": received / 32_000})
        return socket

    async def audio() -> AsyncIterator[bytes]:
        for _ in range(10):
            yield bytes(32_000)

    app = web.Application()
    app.router.add_get("/v1/audio/transcriptions/stream", slow)
    async with served(app) as url:
        assert [update async for update in stream(ServerConfig(url, ahead_s=3), audio())] == []
    assert max(ahead) == 3
    assert len(ahead) == 10


# --- Refusals and advice


async def refusal(*argv: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert await run(*argv) == 1
    return capsys.readouterr().err


async def test_nothing_listening_says_how_to_start_a_server(
    wav: str, capsys: pytest.CaptureFixture[str]
) -> None:
    error = await refusal(wav, "--server", "http://127.0.0.1:9", capsys=capsys)
    assert "Start a server with `perch serve`" in error


async def test_a_missing_key_says_where_to_give_one(wav: str, capsys: pytest.CaptureFixture[str]) -> None:
    async with gateway(api_keys=("secret",)) as url:
        assert "--api-key" in await refusal(wav, "--server", url, capsys=capsys)
        assert await run(wav, "--server", url, "--api-key", "secret") == 0


async def test_the_key_may_come_from_the_environment(wav: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERCH_API_KEY", "secret")
    async with gateway(api_keys=("secret",)) as url:
        assert await run(wav, "--server", url) == 0


async def test_a_certificate_nobody_signed_is_refused_until_told_otherwise(
    wav: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    async with gateway(context) as url:
        assert "--insecure" in await refusal(wav, "--server", url, capsys=capsys)
        assert await run(wav, "--server", url, "--insecure") == 0
        assert await run(wav, "--server", url, "--ca", str(tmp_path / "ca.pem")) == 0


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_this_machines_own_certificate_is_trusted_for_a_loopback_address(
    host: str,
    wav: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tls, _ = server_context(TlsConfig(), tmp_path / "state", "127.0.0.1")
    async with gateway(tls) as url:
        server = url.replace("127.0.0.1", host)
        monkeypatch.setenv("PERCH_STATE_DIR", str(tmp_path / "state"))
        assert await run(wav, "--server", server) == 0
        monkeypatch.setenv("PERCH_STATE_DIR", str(tmp_path / "elsewhere"))
        assert "--ca FILE" in await refusal(wav, "--server", server, capsys=capsys)


async def test_another_certificate_of_a_loopback_address_is_refused(
    wav: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    self_signed(tmp_path / "state", "127.0.0.1")
    tls, _ = server_context(TlsConfig(), tmp_path / "other", "127.0.0.1")
    monkeypatch.setenv("PERCH_STATE_DIR", str(tmp_path / "state"))
    async with gateway(tls) as url:
        assert "--ca FILE" in await refusal(wav, "--server", url, capsys=capsys)


async def test_a_server_that_refuses_the_settings_is_quoted() -> None:
    async def refuse(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(protocols=("perch.v1",))
        await socket.prepare(request)
        await socket.send_json({"type": "error", "code": "language_unsupported", "message": "No xx-XX here."})
        await socket.close(code=1008)
        return socket

    app = web.Application()
    app.router.add_get("/v1/audio/transcriptions/stream", refuse)
    async with served(app) as url:
        with pytest.raises(TranscriptionFailed, match=r"No xx-XX here\. \[language_unsupported\]"):
            await collect(ServerConfig(url))


async def test_a_language_the_engine_lacks_is_told_by_name(
    wav: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async with gateway() as url:
        error = await refusal(wav, "--server", url, "--language", "xx-XX", capsys=capsys)
    assert "only supports English" in error
    assert "[language_unsupported]" in error


async def test_a_server_without_tls_is_told_from_none(wav: str, capsys: pytest.CaptureFixture[str]) -> None:
    async with gateway() as url:
        error = await refusal(wav, "--server", url.replace("http", "https"), capsys=capsys)
    assert "with http:// instead" in error


async def test_a_server_with_tls_is_told_from_none(wav: str, capsys: pytest.CaptureFixture[str]) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    async with gateway(context) as url:
        error = await refusal(wav, "--server", url.replace("https", "http"), capsys=capsys)
    assert "with https:// instead" in error


async def test_a_refusal_that_is_never_said_to_its_end_is_one_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("perch.cli.native_client._REFUSAL_S", 0.2)

    async def refuse(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(status=503, headers={"Retry-After": "7", "Content-Length": "100"})
        await answer.prepare(request)
        await answer.write(b"{")
        await told.wait()
        return answer

    told = asyncio.Event()
    app = web.Application()
    app.router.add_get("/v1/audio/transcriptions/stream", refuse)
    async with served(app) as url:
        with pytest.raises(TranscriptionFailed, match="Try again in 7 s"):
            await collect(ServerConfig(url))
        told.set()


async def test_a_proxy_that_refuses_says_when_to_come_back() -> None:
    async def refuse(_: web.Request) -> web.Response:
        return web.Response(status=503, headers={"Retry-After": "7"}, text="<html>busy</html>")

    app = web.Application()
    app.router.add_get("/v1/audio/transcriptions/stream", refuse)
    async with served(app) as url:
        with pytest.raises(TranscriptionFailed, match="Try again in 7 s"):
            await collect(ServerConfig(url))


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            errors.EngineUnavailable("The speech engine cannot be reached."),
            r"refuses: The speech engine cannot be reached\. \[engine_unavailable\]$",
        ),
        (errors.AsrDisabled("Recognition is switched off."), r"switched off\. \[asr_disabled\]$"),
        (
            errors.GoingAway("This gateway is shutting down; connect again.", retry_after=1),
            r"connect again\. \[going_away\] Try again in 1 s\.$",
        ),
        (errors.Forbidden("This key may not stream."), r"may not stream\. \[forbidden\]$"),
    ],
)
async def test_a_refusal_says_why_in_the_servers_words(error: errors.PerchError, said: str) -> None:
    async def refuse(_: web.Request) -> web.Response:
        return error_response(error)

    app = web.Application()
    app.router.add_get("/v1/audio/transcriptions/stream", refuse)
    async with served(app) as url:
        with pytest.raises(TranscriptionFailed, match=said):
            await collect(ServerConfig(url))


async def test_another_address_of_the_server_is_told_as_such(
    wav: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async with gateway() as url:
        assert "answers HTTP 404" in await refusal(wav, "--server", f"{url}/nowhere", capsys=capsys)


async def test_a_server_that_goes_away_is_told_as_such() -> None:
    async def leave(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(protocols=("perch.v1",))
        await socket.prepare(request)
        await socket.close(code=1012)
        return socket

    app = web.Application()
    app.router.add_get("/v1/audio/transcriptions/stream", leave)
    async with served(app) as url:
        with pytest.raises(TranscriptionFailed, match="1012"):
            await collect(ServerConfig(url))


async def test_a_server_that_says_nothing_is_given_up() -> None:
    async def mute(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(protocols=("perch.v1",))
        await socket.prepare(request)
        async for _ in socket:
            pass
        return socket

    app = web.Application()
    app.router.add_get("/v1/audio/transcriptions/stream", mute)
    async with served(app) as url:
        with pytest.raises(TranscriptionFailed, match=r"nothing for 0\.1 s"):
            await collect(ServerConfig(url, silence_s=0.1))


async def collect(config: ServerConfig) -> list[object]:
    async def audio() -> AsyncIterator[bytes]:
        yield bytes(3_200)

    return [update async for update in stream(config, audio()) if isinstance(update, Final)]


# --- Usage


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ([], "name the recordings"),
        (["--mic", "a.wav"], "or use --mic"),
        (["a.wav", "--server", "ftp://x"], "is not a server"),
        (["a.wav", "--ca", "/no/such/file"], "is not a file"),
        (["a.wav", "b.wav", "--format", "srt"], "--output-dir"),
    ],
)
async def test_options_that_make_no_sense_are_a_usage_error(
    argv: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await run(*argv) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("https://host", "wss://host/v1/audio/transcriptions/stream"),
        ("http://host:8080/", "ws://host:8080/v1/audio/transcriptions/stream"),
        ("host:8443", "wss://host:8443/v1/audio/transcriptions/stream"),
        ("wss://host/ws/transcribe?language=en-US", "wss://host/ws/transcribe?language=en-US"),
    ],
)
def test_a_server_may_be_written_as_people_write_it(written: str, meant: str) -> None:
    assert stream_url(written) == meant


async def test_a_microphone_without_its_driver_says_what_to_install(
    capsys: pytest.CaptureFixture[str],
) -> None:
    try:
        import sounddevice
    except OSError:
        async with gateway() as url:
            error = await refusal("--mic", "--server", url, capsys=capsys)
        assert "apt install libportaudio2" in error
    else:
        pytest.skip(f"PortAudio is installed ({sounddevice.get_portaudio_version()[1]})")
