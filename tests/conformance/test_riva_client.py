"""NVIDIA's own Python client, unmodified, against the engine: the calls its sample scripts make.

The client is synchronous, so it runs in threads, as it would in another process. Speech is tone words,
which the scripted engine recognises exactly; the last test uses a real voice.
"""

import asyncio
import io
import json
import time
import wave
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import riva.client
import soxr
import trustme
from riva.client.proto import riva_asr_pb2

from engines import LONG_PAUSE, engine_over, scripted_engine, tone_speech
from perch.audio.tones import layout
from perch.core.audio import samples_to_ms
from perch.engine.config import ServerTls
from perch.inference.loader import load_recogniser

WORDS = ("hello perch one two", "red green blue")
TRANSCRIPT = " ".join(WORDS)
VOICE = Path(__file__).parents[3] / "shared" / "speech" / "ps_goforward.wav"
FRAMES = 1_600
"""Of the file, per message: the scripts' default, 100 ms of 16 kHz and 33 ms of 48 kHz."""


@dataclass(frozen=True)
class Client:
    """What a script has: its service, and the means to find the server."""

    service: riva.client.ASRService
    uri: str


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    async with scripted_engine() as server:
        auth = riva.client.Auth(uri=server.address)
        yield Client(riva.client.ASRService(auth), server.address)
        auth.channel.close()


@pytest.fixture
def speech(tmp_path: Path) -> Path:
    return write_wav(tmp_path / "speech.wav", 16_000)


@pytest.fixture
def speech_48k(tmp_path: Path) -> Path:
    return write_wav(tmp_path / "speech48.wav", 48_000)


def write_wav(path: Path, rate: int) -> Path:
    """Tone words, behind a header of 78 bytes like that of NVIDIA's samples."""
    signal = np.frombuffer(tone_speech(*WORDS), dtype="<i2").astype(np.float32) / 32_768
    pcm = np.rint(soxr.resample(signal, 16_000, rate) * 32_000).astype("<i2").tobytes()
    plain = io.BytesIO()
    with wave.open(plain, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(rate)
        writer.writeframes(pcm)
    header, body = plain.getvalue()[:36], plain.getvalue()[36:]
    info = (
        b"LIST" + (26).to_bytes(4, "little") + b"INFOISFT" + (14).to_bytes(4, "little") + b"Lavf58.29.100\0"
    )
    path.write_bytes(header + info + body)
    return path


def size(path: Path) -> int:
    return path.stat().st_size


def read_json(path: str) -> Any:
    return json.loads(Path(path).read_text())


def script_config(**fields: Any) -> Any:
    """As ``transcribe_file.py`` builds it: no encoding, no rate, an empty language."""
    settings = {
        "language_code": "",
        "model": "",
        "max_alternatives": 1,
        "profanity_filter": False,
        "enable_automatic_punctuation": False,
        "verbatim_transcripts": True,
        "enable_word_time_offsets": False,
        **fields,
    }
    return riva.client.StreamingRecognitionConfig(
        config=riva.client.RecognitionConfig(**settings), interim_results=True
    )


def stream(client: Client, path: Path, config: Any, **chunking: Any) -> list[Any]:
    with riva.client.AudioChunkFileIterator(path, FRAMES, **chunking) as chunks:
        return list(client.service.streaming_response_generator(chunks, config))


async def printed(client: Client, path: Path, config: Any, **options: Any) -> str:
    """What the script would show."""

    def script() -> str:
        output = io.StringIO()
        riva.client.print_streaming(stream(client, path, config), output_file=output, **options)
        return output.getvalue()

    return await asyncio.to_thread(script)


def transcript(responses: list[Any]) -> str:
    return "".join(
        result.alternatives[0].transcript
        for response in responses
        for result in response.results
        if result.is_final
    )


# In the order of the sample scripts and their options: transcribe_file.py, transcribe_file_offline.py,
# riva_streaming_asr_client.py, then how they connect.


@pytest.mark.parametrize("kind", ["online", "offline"])
async def test_list_models(client: Client, kind: str) -> None:
    request = riva_asr_pb2.RivaSpeechRecognitionConfigRequest()
    response = await asyncio.to_thread(client.service.stub.GetRivaSpeechRecognitionConfig, request)
    listed: dict[str, list[str]] = {}
    for model in response.model_config:  # the scripts' own loop
        if model.parameters["type"] == kind:
            listed.setdefault(model.parameters["language_code"], []).append(model.model_name)
    assert listed == {"en-US": ["scripted"]}


async def test_transcribe_a_file(client: Client, speech: Path) -> None:
    text = await printed(client, speech, script_config())
    assert text == "## hello perch one two\n##  red green blue\n"


async def test_there_is_one_response_for_each_message_or_one_more(client: Client, speech: Path) -> None:
    """As NVIDIA's C++ performance client demands before it prints a single latency."""
    responses = await asyncio.to_thread(stream, client, speech, script_config())
    requests = -(-size(speech) // (FRAMES * 2))
    assert len(responses) in {requests, requests + 1}
    assert sum(not response.results for response in responses) > requests / 2


async def test_show_intermediate(client: Client, speech: Path) -> None:
    text = await printed(client, speech, script_config(), show_intermediate=True)
    assert ">> hello perch" in text
    assert "## hello perch one two" in text


async def test_print_confidence(client: Client, speech: Path) -> None:
    text = await printed(client, speech, script_config(), additional_info="confidence")
    assert "Stability:    0.0000" in text
    assert "Confidence:    1.0000" in text


async def test_everything_a_script_can_ask_for_at_once(client: Client, speech: Path, tmp_path: Path) -> None:
    config = script_config(enable_word_time_offsets=True)
    riva.client.add_word_boosting_to_config(config, ["perch"], 20.0)
    riva.client.add_speaker_diarization_to_config(config, True, 4)
    riva.client.add_endpoint_parameters_to_config(config, 0, 0, 480, 240, 0, 0)
    riva.client.add_custom_configuration_to_config(
        config, "enable_vad_endpointing:true,neural_vad.onset:0.65"
    )
    seglst = str(tmp_path / "out")
    text = await printed(
        client,
        speech,
        config,
        additional_info="time",
        word_time_offsets=True,
        speaker_diarization=True,
        seglst_output_file=seglst,
    )
    rows = [line.split() for line in text.splitlines() if line.startswith(tuple(TRANSCRIPT.split()))]
    placed = [word for utterance in layout(WORDS, LONG_PAUSE) for word in utterance]
    assert [(row[0], int(row[1]), int(row[2])) for row in rows] == [
        (word.text, samples_to_ms(word.start), samples_to_ms(word.end)) for word in placed
    ]
    (segment,) = await asyncio.to_thread(read_json, f"{seglst}.seglst.json")
    assert segment["words"] == TRANSCRIPT


async def test_the_early_end_of_an_utterance_is_a_partial_of_full_stability(
    client: Client, speech: Path
) -> None:
    config = script_config()
    riva.client.add_endpoint_parameters_to_config(config, 0, 0, 960, 240, 0, 0)
    responses = await asyncio.to_thread(stream, client, speech, config)
    results = [result for response in responses for result in response.results]
    early = [r.alternatives[0].transcript for r in results if not r.is_final and r.stability == 1.0]
    assert early == ["hello perch one two", " red green blue"]


async def test_simulate_realtime(client: Client, speech: Path) -> None:
    began = time.monotonic()
    responses = await asyncio.to_thread(
        stream, client, speech, script_config(), delay_callback=riva.client.sleep_audio_length
    )
    seconds = riva.client.get_wav_file_parameters(speech)["duration"]
    assert transcript(responses) == TRANSCRIPT
    assert time.monotonic() - began >= seconds


@pytest.mark.parametrize("language", ["ru-RU", "en-GB"])
async def test_a_language_that_is_not_there(client: Client, speech: Path, language: str) -> None:
    with pytest.raises(grpc.RpcError) as refusing:
        await asyncio.to_thread(stream, client, speech, script_config(language_code=language))
    refusal: Any = refusing.value
    assert refusal.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert refusal.details() == (
        "Error: Unavailable model requested given these parameters: "
        f"language_code={language}; sample_rate=0; type=online; "
    )


async def test_transcribe_a_file_offline(
    client: Client, speech: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = riva.client.RecognitionConfig(
        language_code="en-US", max_alternatives=2, enable_word_time_offsets=True, verbatim_transcripts=True
    )
    recording = await asyncio.to_thread(speech.read_bytes)
    response = await asyncio.to_thread(client.service.offline_recognize, recording, config)
    riva.client.print_offline(response)
    assert "Final transcript: hello perch one two red green blue" in capsys.readouterr().out
    assert len(response.results) == 2
    assert response.results[1].audio_processed == pytest.approx(len(tone_speech(*WORDS)) / 32_000)


async def test_two_clients_twice_each_with_48_khz(client: Client, speech_48k: Path) -> None:
    """``riva_streaming_asr_client.py --num-clients 2 --num-iterations 2 --max-alternatives 2``."""

    def iterations() -> list[str]:
        auth = riva.client.Auth(uri=client.uri)
        own = Client(riva.client.ASRService(auth), client.uri)
        config = script_config(max_alternatives=2, enable_word_time_offsets=True, language_code="en-US")
        config.config.encoding = riva.client.AudioEncoding.LINEAR_PCM
        riva.client.add_audio_file_specs_to_config(config, speech_48k)
        assert config.config.sample_rate_hertz == 48_000
        texts = [transcript(stream(own, speech_48k, config)) for _ in range(2)]
        auth.channel.close()
        return texts

    both = await asyncio.gather(asyncio.to_thread(iterations), asyncio.to_thread(iterations))
    assert list(both) == [[TRANSCRIPT] * 2] * 2


@dataclass(frozen=True)
class Pki:
    tls: ServerTls
    ca: Path
    client_cert: Path
    client_key: Path


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    authority = trustme.CA()
    server = authority.issue_cert("localhost")
    client = authority.issue_cert("client@perch.test")
    ca, cert, key = (tmp_path / name for name in ("ca.crt", "client.crt", "client.key"))
    authority.cert_pem.write_to_path(str(ca))
    client.cert_chain_pems[0].write_to_path(str(cert))
    client.private_key_pem.write_to_path(str(key))
    chain = b"".join(blob.bytes() for blob in server.cert_chain_pems)
    return Pki(ServerTls(chain, server.private_key_pem.bytes()), ca, cert, key)


def over_tls(port: int, path: Path, **auth: Any) -> str:
    credentials = riva.client.Auth(uri=f"localhost:{port}", use_ssl=True, **auth)
    try:
        service = Client(riva.client.ASRService(credentials), "")
        return transcript(stream(service, path, script_config()))
    finally:
        credentials.channel.close()


async def test_tls_with_metadata_that_arrives_twice(pki: Pki, speech: Path) -> None:
    metadata = [["authorization", "Bearer x"], ["function-id", "abc"]]
    async with scripted_engine(tls=pki.tls, api_key="x") as server:
        text = await asyncio.to_thread(
            over_tls, server.port, speech, ssl_root_cert=pki.ca, metadata_args=metadata
        )
    assert text == TRANSCRIPT


async def test_mutual_tls_and_its_absence(pki: Pki, speech: Path) -> None:
    tls = ServerTls(pki.tls.certificate, pki.tls.key, client_ca=pki.ca.read_bytes())
    own = {"ssl_client_cert": pki.client_cert, "ssl_client_key": pki.client_key}
    async with scripted_engine(tls=tls) as server:
        text = await asyncio.to_thread(over_tls, server.port, speech, ssl_root_cert=pki.ca, **own)
        assert text == TRANSCRIPT
        with pytest.raises(grpc.RpcError) as refusing:
            await asyncio.to_thread(over_tls, server.port, speech, ssl_root_cert=pki.ca)
    refusal: Any = refusing.value
    assert refusal.code() is grpc.StatusCode.UNAVAILABLE


async def test_channel_options_given_as_text(client: Client, speech: Path) -> None:
    auth = riva.client.Auth(uri=client.uri, options=[("grpc.keepalive_time_ms", "10000")])
    own = Client(riva.client.ASRService(auth), client.uri)
    responses = await asyncio.to_thread(stream, own, speech, script_config())
    auth.channel.close()
    assert transcript(responses) == TRANSCRIPT


@pytest.mark.parametrize("name", ["no-such-model", "scripted"])
async def test_asking_for_the_configuration_of_one_model(client: Client, name: str) -> None:
    request = riva_asr_pb2.RivaSpeechRecognitionConfigRequest(model_name=name)
    response = await asyncio.to_thread(client.service.stub.GetRivaSpeechRecognitionConfig, request)
    assert {model.model_name for model in response.model_config} == ({name} & {"scripted"})


@pytest.mark.golden
async def test_a_real_voice() -> None:
    if not await asyncio.to_thread(VOICE.exists):
        pytest.skip("the shared speech recordings are not here")
    recogniser = await load_recogniser("embedded", slots=1)
    try:
        async with engine_over(recogniser) as server:
            service = Client(riva.client.ASRService(riva.client.Auth(uri=server.address)), server.address)
            text = await printed(service, VOICE, script_config(enable_word_time_offsets=True))
            service.service.auth.channel.close()
    finally:
        await recogniser.aclose()
    assert text == "## go forward ten meters\n"
