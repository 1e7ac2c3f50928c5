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
from perch.core.messages import Backend, SessionConfig
from perch.core.speech import RecognitionConfig
from perch.inference.loader import about
from perch.inference.recogniser import Capabilities
from perch.inference.scripted import ScriptedRecogniser
from perch.observability.metrics import Metrics
from perch.registry.catalogue import get
from perch.server.config import GatewayConfig
from perch.server.monitor import EngineMonitor

SPEECH = tone_speech("hello bird")


def parakeet(name: str, *, slots: int = 8) -> ScriptedRecogniser:
    entry = get(name)
    return ScriptedRecogniser(
        Capabilities(
            model=entry.id,
            languages=entry.languages,
            aliases=(*entry.aliases, entry.engine_model),
            streaming_mode="buffered",
            slots=slots,
            parameters={**about(entry), "chunk_ms": "1120", "lookahead_ms": "1120"},
        )
    )


def speaking(name: str, *languages: str) -> ScriptedRecogniser:
    return ScriptedRecogniser(Capabilities(model=name, languages=languages, slots=8))


@asynccontextmanager
async def serving(
    *recognisers: ScriptedRecogniser, model: str = "", language: str = "en-US"
) -> AsyncIterator[Gateway]:
    """A gateway over an engine for each, set to use ``model`` and ``language``."""
    if not recognisers:
        recognisers = (parakeet("parakeet-0.6b"), parakeet("parakeet-1.1b"))
    async with _engines(list(recognisers)) as addresses:
        client = RivaASRClient(
            RivaConfig(
                endpoints=tuple(addresses), backend=Backend("engine", model), model=model, language=language
            )
        )
        defaults = SessionConfig(recognition=RecognitionConfig(model=model, language=language))
        async with gateway(client, GatewayConfig(defaults=defaults)) as at:
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


async def recorded(at: Gateway, **fields: str) -> tuple[int, Any]:
    """What a recording over HTTP is answered with."""
    form = aiohttp.FormData()
    for name, value in ({"response_format": "verbose_json"} | fields).items():
        form.add_field(name, value)
    form.add_field("file", riff(SPEECH), filename="a.wav")
    async with at.client.post(at.http + "/v1/audio/transcriptions", data=form) as response:
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
    """004-30, 004-43."""
    async with serving() as at:
        status, refused = await recorded(at, model="parakeet-0.6b", language="fr")
    assert status == 400
    assert refused["error"]["message"].startswith("Model parakeet-0.6b only supports English")


async def test_the_gateways_own_language_is_refused_too_if_a_client_names_it_and_no_engine_has_it() -> None:
    """004-30, 004-31."""
    async with serving(parakeet("parakeet-0.6b"), language="fr") as at:
        status, refused = await recorded(at, language="fr")
        heard = [
            await transcribe(at, [], query="?language=fr"),
            await transcribe(at, [], start={"language": "fr"}),
        ]
        unnamed = await transcribe(at, cut(SPEECH))
    assert (status, refused["error"]["code"]) == (400, "language_unsupported")
    assert [(one.error, one.of("ready")) for one in heard] == [("language_unsupported", [])] * 2
    assert unnamed.text == "hello bird"


@pytest.mark.parametrize("language", ["", "auto", "fr"])
async def test_a_french_engine_works_in_french_whatever_the_gateways_language(language: str) -> None:
    async with serving(speaking("voix", "fr-FR")) as at:
        named = {"language": language} if language else {}
        status, answer = await recorded(at, **named)
        heard = await transcribe(at, cut(SPEECH), start=named)
    assert (status, answer["text"], answer["language"]) == (200, "hello bird", "fr-FR")
    assert heard.text == "hello bird"
    assert heard.of("ready")[0]["config"]["language"] == "fr-FR"


@pytest.mark.parametrize(("language", "told"), [("", ""), ("auto", ""), ("en", "en"), ("fr-CA", "fr-CA")])
async def test_what_is_spoken_is_not_made_up_where_a_model_knows_several_languages(
    language: str, told: str
) -> None:
    async with serving(parakeet("parakeet-tdt-0.6b-v3")) as at:
        status, answer = await recorded(at, **({"language": language} if language else {}))
    assert (status, answer["text"], answer["language"]) == (200, "hello bird", told)


async def test_the_one_language_of_a_model_is_told_also_if_nobody_named_it() -> None:
    async with serving(parakeet("parakeet-0.6b")) as at:
        assert (await recorded(at))[1]["language"] == "en-US"


@pytest.mark.parametrize(("language", "model"), [("fr", "parakeet-tdt-0.6b-v3"), ("en", "parakeet-0.6b")])
async def test_ready_names_the_model_that_recognises(language: str, model: str) -> None:
    engines = [parakeet("parakeet-0.6b"), parakeet("parakeet-tdt-0.6b-v3")]
    async with serving(*engines) as at, at.client.ws_connect(f"{at.ws}?language={language}") as socket:
        ready = await next_event(socket)
        await socket.send_bytes(SPEECH)
        while (await next_event(socket))["type"] != "partial":
            pass
        assert [engine.capabilities.model for engine in engines if engine.open_voices] == [model]
        assert ready["model"] == ready["config"]["model"] == model
        assert ready["capabilities"]["streaming_mode"] == "buffered"
        await socket.send_json({"type": "stop"})
        while (await next_event(socket))["type"] != "done":
            pass


@pytest.mark.parametrize("name", ["nemotron", "Nemotron", "nvidia/nemotron-speech-streaming-en-0.6b"])
async def test_a_model_that_is_set_by_an_alias_keeps_its_mode(name: str) -> None:
    known = parakeet("nemotron-speech-streaming-en-0.6b")
    async with serving(parakeet("parakeet-0.6b"), known, model=name) as at:
        status, ready = await got(at, "/ready")
        heard = await transcribe(at, cut(SPEECH))
    assert (status, ready["model"], ready["streaming_mode"]) == (200, known.capabilities.model, "buffered")
    assert heard.text == "hello bird"
    told = heard.of("ready")[0]
    assert (told["model"], told["capabilities"]["streaming_mode"]) == (known.capabilities.model, "buffered")


async def test_a_model_that_is_set_and_that_no_engine_has_is_a_problem_that_ready_tells() -> None:
    """Engines that take any name go on serving all the same."""
    async with serving(model="parakeet-9") as at:
        status, ready = await got(at, "/ready")
        assert (status, ready["status"]) == (503, "model_unavailable")
        assert "'parakeet-9'" in ready["problem"]
        assert "there is parakeet-0.6b, parakeet-1.1b." in ready["problem"]
        status, nim = await got(at, "/v1/health/ready")
        assert (status, nim["message"]) == (503, ready["problem"])
        assert (await transcribe(at, cut(SPEECH))).text == "hello bird"


async def test_a_model_that_was_listed_is_not_missing_while_its_engine_is_away() -> None:
    """The other engines carry on, as they do for streams that lose theirs."""
    away = parakeet("parakeet-0.6b")
    async with engine_over(parakeet("parakeet-1.1b")) as other:
        async with engine_over(away) as server:
            client = RivaASRClient(
                RivaConfig(
                    endpoints=(server.address, other.address),
                    backend=Backend("riva", "parakeet"),
                    rpc_timeout_s=2.0,
                )
            )
            monitor = EngineMonitor(client, Metrics(), 60.0)
            assert (await monitor.check()).backend.model == "parakeet-0.6b"
        state = await monitor.check()
        assert {info.name for info in state.models} == {"parakeet-1.1b"}
        assert (state.problem, state.missing, state.backend.model) == (None, None, "parakeet-0.6b")
        await client.aclose()


@pytest.mark.parametrize(
    "name",
    [
        "PARAKEET-0.6B",
        "Parakeet",
        "nvidia/parakeet-rnnt-0.6b",
        "nvidia%2Fparakeet-rnnt-0.6b",
        "NVIDIA/parakeet-rnnt-0.6b",
    ],
)
async def test_a_model_is_found_by_any_name_in_any_case(name: str) -> None:
    async with serving() as at:
        status, one = await got(at, f"/v1/models/{name}")
    assert (status, one["id"]) == (200, "parakeet-0.6b")


@pytest.mark.parametrize("model", ["parakeet-0.6b", "parakeet"])
async def test_a_language_that_a_model_does_not_speak_is_refused_before_any_audio(model: str) -> None:
    """004-31, 004-43."""
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
