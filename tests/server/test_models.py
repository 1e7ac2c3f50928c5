"""What engines publish of their models, as clients of the gateway see it: lists, names, languages, room."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import aiohttp
import pytest

from audio.recordings import riff
from engines import engine_over, tone_speech
from gateways import Gateway, cut, gateway, next_event, transcribe
from perch.asr.riva_client import RivaASRClient, RivaConfig
from perch.core.messages import Backend
from perch.inference.loader import about
from perch.inference.recogniser import Capabilities
from perch.inference.scripted import ScriptedRecogniser
from perch.registry.catalogue import get

SPEECH = tone_speech("hello bird")


def parakeet(name: str, *, slots: int = 8) -> ScriptedRecogniser:
    entry = get(name)
    return ScriptedRecogniser(
        Capabilities(
            model=entry.id,
            languages=entry.languages,
            aliases=entry.aliases,
            streaming_mode="buffered",
            slots=slots,
            parameters={**about(entry), "chunk_ms": "1120", "lookahead_ms": "1120"},
        )
    )


@asynccontextmanager
async def serving(*recognisers: ScriptedRecogniser) -> AsyncIterator[Gateway]:
    """A gateway over an engine for each."""
    if not recognisers:
        recognisers = (parakeet("parakeet-0.6b"), parakeet("parakeet-1.1b"))
    async with _engines(list(recognisers)) as addresses:
        client = RivaASRClient(RivaConfig(endpoints=tuple(addresses), backend=Backend("engine")))
        async with gateway(client) as at:
            yield at


@asynccontextmanager
async def _engines(recognisers: list[ScriptedRecogniser]) -> AsyncIterator[list[str]]:
    if not recognisers:
        yield []
        return
    async with engine_over(recognisers[0]) as server, _engines(recognisers[1:]) as others:
        yield [server.address, *others]
    await recognisers[0].aclose()


async def got(at: Gateway, path: str) -> tuple[int, Any]:
    async with at.client.get(at.http + path) as response:
        return response.status, await response.json()


async def test_the_models_of_all_engines_are_listed_with_what_they_can_do() -> None:
    """004-26, 004-27."""
    async with serving() as at:
        status, listed = await got(at, "/v1/models")
        assert status == 200
        by_id = {model["id"]: model for model in listed["data"]}
        assert set(by_id) == {"parakeet-0.6b", "parakeet-1.1b"}
        assert all(model["capabilities"]["languages"] == ["en"] for model in by_id.values())
        assert by_id["parakeet-1.1b"]["tier"] == "balanced"
        assert by_id["parakeet-1.1b"]["resource_hints"] == {"vram_gb": 6.0}
        status, one = await got(at, "/v1/models/parakeet-0.6b")
        assert (status, one["engine"]) == (200, "parakeet")
        assert one["capabilities"]["streaming"] is True
        assert one["capabilities"]["streaming_mode"] == "buffered"
        assert one["capabilities"]["word_timestamps"] is True
        assert (await got(at, "/v1/models/parakeet"))[1] == one
        status, missing = await got(at, "/v1/models/whisper-9")
        assert status == 404
        assert "parakeet-0.6b, parakeet-1.1b" in missing["error"]["message"]


async def test_a_language_that_a_model_does_not_speak_is_refused_over_http() -> None:
    """004-30."""
    async with serving() as at:
        form = aiohttp.FormData()
        form.add_field("model", "parakeet-0.6b")
        form.add_field("language", "fr")
        form.add_field("file", riff(SPEECH), filename="a.wav")
        async with at.client.post(at.http + "/v1/audio/transcriptions", data=form) as response:
            assert response.status == 400
            message = (await response.json())["error"]["message"]
    assert message.startswith("Model parakeet-0.6b only supports English")


@pytest.mark.parametrize("model", ["parakeet-0.6b", "parakeet"])
async def test_a_language_that_a_model_does_not_speak_is_refused_before_any_audio(model: str) -> None:
    """004-31."""
    async with serving() as at:
        heard = await transcribe(at, [], query=f"?model={model}&language=fr")
    assert heard.error == "language_unsupported"
    assert heard.close_code == 1008


@pytest.mark.parametrize("model", ["parakeet-0.6b", "parakeet", "parakeet-1.1b"])
@pytest.mark.parametrize("language", ["", "en", "en-GB"])
async def test_a_stream_by_id_or_alias_is_served_by_the_engine_that_has_the_model(
    model: str, language: str
) -> None:
    """004-32."""
    recognisers = (parakeet("parakeet-0.6b"), parakeet("parakeet-1.1b"))
    async with serving(*recognisers) as at:
        query = f"?model={model}" + (f"&language={language}" if language else "")
        heard = await transcribe(at, cut(SPEECH), query=query)
    assert heard.text == "hello bird"
    [ready] = heard.of("ready")
    assert ready["model"] == get(model).id
    assert ready["capabilities"] == {
        "streaming_mode": "buffered",
        "chunk_ms": 1120,
        "lookahead_ms": 1120,
        "word_times": True,
        "punctuation": False,
        "partials": True,
    }


async def test_whether_a_model_has_words_before_a_final_is_told_wherever_its_mode_is() -> None:
    """The mode does not tell: an embedded recogniser takes whole utterances, and shows words meanwhile."""
    silent = replace(parakeet("parakeet-0.6b").capabilities, streaming_mode="vad-segmented", partials=False)
    showing = replace(parakeet("parakeet-1.1b").capabilities, streaming_mode="vad-segmented")
    async with serving(ScriptedRecogniser(silent), ScriptedRecogniser(showing)) as at:
        _, readiness = await got(at, "/ready")
        assert readiness["partials"] is {silent.model: False, showing.model: True}[readiness["model"]]
        for told in (silent, showing):
            model = (await got(at, f"/v1/models/{told.model}"))[1]
            assert model["capabilities"]["partials"] is told.partials
            [ready] = (await transcribe(at, [], query=f"?model={told.model}")).of("ready")
            assert ready["capabilities"]["streaming_mode"] == "vad-segmented"
            assert ready["capabilities"]["partials"] is told.partials


async def test_an_engine_that_does_not_say_whether_it_has_partials_is_told_as_not_known() -> None:
    """As Riva is, which says nothing of it."""
    recogniser = parakeet("parakeet-0.6b")
    unsaid = replace(
        recogniser.capabilities, parameters={**recogniser.capabilities.parameters, "partials": ""}
    )
    async with serving(ScriptedRecogniser(unsaid)) as at:
        assert (await got(at, "/ready"))[1]["partials"] is None
        assert (await got(at, "/v1/models/parakeet"))[1]["capabilities"]["partials"] is None
        [ready] = (await transcribe(at, [])).of("ready")
        assert ready["capabilities"]["partials"] is None


async def test_no_more_streams_are_let_in_than_the_engine_says_it_carries() -> None:
    async with serving(parakeet("parakeet-0.6b", slots=1)) as at:
        async with at.client.ws_connect(at.ws) as socket:
            assert (await next_event(socket))["type"] == "ready"
            await socket.send_bytes(SPEECH)
            while (await next_event(socket))["type"] != "partial":
                pass
            assert (await got(at, "/ready"))[1]["engine_room"] == 0
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await at.client.ws_connect(at.ws)
            assert refused.value.status == 503
            assert refused.value.headers is not None
            assert float(refused.value.headers["Retry-After"]) > 0
            await socket.send_json({"type": "stop"})
            while (await next_event(socket))["type"] != "done":
                pass
        heard = await transcribe(at, cut(SPEECH))
        assert heard.text == "hello bird"
