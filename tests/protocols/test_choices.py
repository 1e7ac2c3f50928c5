"""What a client named, what it did not, and what there is: the models and languages that come of it."""

import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from perch.core.languages import primary
from perch.core.messages import Backend, Reply, SessionConfig, Start
from perch.core.speech import ModelInfo, RecognitionConfig
from perch.errors import LanguageUnsupported, ModelUnavailable
from perch.protocols import assemblyai, audiocodes, deepgram, media_streams, native, realtime, vosk
from perch.protocols.base import Dialect, Request, WireProtocol
from perch.protocols.choices import NAMES, chosen
from perch.registry.catalogue import CATALOGUE


def ours(name: str, *languages: str, aliases: str = "") -> ModelInfo:
    return ModelInfo(
        name, languages, offline=True, parameters={"streaming_mode": "buffered", "aliases": aliases}
    )


ENGLISH = ours("english", "en", aliases="nvidia/english")
FRENCH = ours("french", "fr-FR")
SEVERAL = ours("several", "bg", "fr", "en")
DEFAULTS = RecognitionConfig(language="en-US")


def choose(
    *models: ModelInfo, model: str = "", language: str = "", default: str = "", speaks: str = "en-US"
) -> tuple[str, str]:
    defaults = RecognitionConfig(model=default, language=speaks)
    found = chosen(RecognitionConfig(model=model, language=language), models, defaults)
    return found.model, found.language


def test_every_language_of_the_catalogue_has_a_name() -> None:
    spoken = {primary(language) for entry in CATALOGUE for language in entry.languages}
    assert spoken - NAMES.keys() == set()


def test_a_refusal_names_all_languages_in_words() -> None:
    europe = next(entry.languages for entry in CATALOGUE if "bg" in entry.languages)
    with pytest.raises(LanguageUnsupported) as refused:
        choose(ours("european", *europe), language="ja")
    assert refused.value.message.startswith("Model european only supports Bulgarian, Croatian, Czech, ")
    assert all(len(name) > 3 for name in refused.value.message.partition("supports ")[2].split(", "))


@pytest.mark.parametrize("speaks", ["en-US", "fr", "ja"])
def test_a_language_that_is_named_must_be_spoken_also_if_it_is_the_gateways(speaks: str) -> None:
    """004-30, 004-31."""
    with pytest.raises(LanguageUnsupported, match="only supports English"):
        choose(ENGLISH, language="fr", speaks=speaks)


@pytest.mark.parametrize(
    ("models", "speaks", "language"),
    [
        ((ENGLISH,), "en-US", "en-US"),
        ((ENGLISH,), "fr", "en"),
        ((FRENCH,), "en-US", "fr-FR"),
        ((SEVERAL,), "fr", "fr"),
        ((SEVERAL,), "ja", "bg"),
        ((SEVERAL,), "multi", ""),
        ((), "en-US", "en-US"),
    ],
)
def test_without_a_language_it_is_the_gateways_if_it_is_spoken_and_else_the_models(
    models: tuple[ModelInfo, ...], speaks: str, language: str
) -> None:
    assert choose(*models, speaks=speaks)[1] == language
    assert choose(*models, language="default", speaks=speaks)[1] == language


@pytest.mark.parametrize("asked", ["auto", "Auto", "multi"])
def test_a_language_may_be_left_to_the_model(asked: str) -> None:
    assert choose(FRENCH, language=asked)[1] == "fr-FR"
    assert choose(SEVERAL, language=asked)[1] == "auto"
    assert choose(language=asked)[1] == ""


@pytest.mark.parametrize(
    ("language", "model"), [("", "english"), ("en", "english"), ("fr", "several"), ("auto", "english")]
)
def test_of_several_models_the_first_that_speaks_the_language_is_named(language: str, model: str) -> None:
    assert choose(ENGLISH, SEVERAL, language=language)[0] == model


def test_of_two_models_the_one_with_the_very_region_is_named() -> None:
    american, british = ours("american", "en-US"), ours("british", "en-GB")
    assert choose(american, british, language="en-GB") == ("british", "en-GB")
    assert choose(american, british, language="en-AU") == ("american", "en-US")


def test_rivas_models_are_left_to_riva_unless_only_one_speaks_the_language() -> None:
    riva = [ModelInfo(name, (tag,)) for name, tag in (("a", "en-US"), ("b", "en-US"), ("c", "fr-FR"))]
    assert choose(*riva) == ("", "en-US")
    assert choose(*riva, language="fr") == ("c", "fr-FR")
    assert choose(ModelInfo("a", ("en-US",))) == ("", "en-US")


def test_a_recording_is_not_sent_to_a_model_for_streams_nor_a_stream_to_one_for_recordings() -> None:
    live = [ModelInfo("live-en", ("en-US",)), ModelInfo("live-fr", ("fr-FR",))]
    whole = [ModelInfo(f"whole-{tag}", (tag,), streaming=False, offline=True) for tag in ("en-US", "fr-FR")]
    wanted = RecognitionConfig(language="fr")
    assert chosen(wanted, [*whole, *live], DEFAULTS).model == "live-fr"
    assert chosen(wanted, [*whole, *live], DEFAULTS, live=False).model == ""


@pytest.mark.parametrize("name", ["english", "ENGLISH", "Nvidia/English"])
def test_a_model_is_known_by_any_of_its_names_in_any_case(name: str) -> None:
    assert choose(ENGLISH, SEVERAL, model=name)[0] == "english"
    assert choose(ENGLISH, SEVERAL, default=name)[0] == "english"


@pytest.mark.parametrize("name", ["", "default", "auto", "Default"])
def test_a_name_that_stands_for_none_is_the_gateways_model(name: str) -> None:
    embedded = ours("embedded", "en-US", aliases="default")
    assert choose(embedded, ENGLISH, model=name, default="english")[0] == "english"
    assert choose(ENGLISH, embedded, model=name)[0] == "english"


def test_a_model_that_the_operator_names_is_not_questioned_and_one_that_a_client_names_is() -> None:
    assert choose(ENGLISH, default="hidden") == ("hidden", "en-US")
    assert choose(ENGLISH, default="hidden", model="Hidden") == ("hidden", "en-US")
    with pytest.raises(ModelUnavailable, match="there is english"):
        choose(ENGLISH, model="hidden")


# --- over every dialect --------------------------------------------------------------------------------


def opened(
    dialect: Dialect, models: tuple[ModelInfo, ...], query: Mapping[str, str], speaks: str
) -> WireProtocol:
    return dialect.open(
        Request(
            "st_1",
            now=0.0,
            new_id=lambda prefix: f"{prefix}1",
            query=tuple(query.items()),
            defaults=SessionConfig(recognition=RecognitionConfig(language=speaks)),
            backend=Backend("engine"),
            models=models,
        )
    )


def ga(language: str) -> dict[str, Any]:
    transcription = {"language": language} if language else {}
    return {
        "type": "session.update",
        "session": {"type": "transcription", "audio": {"input": {"transcription": transcription}}},
    }


def nim(language: str) -> dict[str, Any]:
    transcription = {"language": language} if language else {}
    return {"type": "transcription_session.update", "session": {"input_audio_transcription": transcription}}


def media(language: str) -> dict[str, Any]:
    form = {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1}
    parameters = {"language": language} if language else {}
    return {
        "event": "start",
        "streamSid": "s",
        "start": {"mediaFormat": form, "customParameters": parameters, "streamSid": "s"},
    }


def audiocodes_start(language: str) -> dict[str, Any]:
    return {"type": "start"} | ({"language": language} if language else {})


def native_start(language: str) -> dict[str, Any]:
    return {"type": "start", "config": {"language": language} if language else {}}


ASKING: dict[Dialect, Callable[[str], dict[str, Any]]] = {
    native.DIALECT: native_start,
    realtime.NIM: nim,
    realtime.OPENAI_GA: ga,
    realtime.OPENAI_BETA: nim,
    audiocodes.DIALECT: audiocodes_start,
    media_streams.DIALECT: media,
}
"""The message that names a language, or none."""
PARAMETERS = {deepgram.DIALECT: "language", assemblyai.DIALECT: "language_code"}
"""Those that name it in the URL."""
each = pytest.mark.parametrize("dialect", [*ASKING, *PARAMETERS], ids=lambda dialect: dialect.name)


def asked(dialect: Dialect, models: tuple[ModelInfo, ...], language: str, speaks: str) -> RecognitionConfig:
    """What a session gets whose client names ``language``, or none."""
    query = {PARAMETERS[dialect]: language} if language and dialect in PARAMETERS else {}
    protocol = opened(dialect, models, query, speaks)
    commands = protocol.decode_text(json.dumps(ASKING[dialect](language))) if dialect in ASKING else ()
    starts = [command for command in commands if isinstance(command, Start)]
    return (starts[-1] if starts else protocol.implicit_start()).config.recognition


@each
def test_the_gateways_own_language_is_refused_when_a_client_names_it_and_no_model_has_it(
    dialect: Dialect,
) -> None:
    """004-31. OpenAI's and NVIDIA's realtime clients are told so in an event, and their session goes on."""
    if dialect in {realtime.NIM, realtime.OPENAI_GA, realtime.OPENAI_BETA}:
        protocol = opened(dialect, (ENGLISH,), {}, "fr")
        [told] = protocol.decode_text(json.dumps(ASKING[dialect]("fr")))
        assert isinstance(told, Reply)
        error = json.loads(told.text)["error"]
        assert (error["code"], "only supports English" in error["message"]) == ("language_unsupported", True)
    else:
        with pytest.raises(LanguageUnsupported, match="only supports English"):
            asked(dialect, (ENGLISH,), "fr", "fr")


@pytest.mark.parametrize("dialect", [*ASKING, *PARAMETERS, vosk.DIALECT], ids=lambda dialect: dialect.name)
def test_a_client_that_names_no_language_gets_the_models(dialect: Dialect) -> None:
    assert asked(dialect, (FRENCH,), "", "en-US").language == "fr-FR"
    implicit = opened(dialect, (FRENCH,), {}, "en-US").implicit_start()
    assert implicit.config.recognition.language == "fr-FR"


@each
def test_a_client_that_names_only_a_language_gets_a_model_that_speaks_it(dialect: Dialect) -> None:
    found = asked(dialect, (ENGLISH, SEVERAL), "fr", "en-US")
    assert (found.model, found.language) == ("several", "fr")
