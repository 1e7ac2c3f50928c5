"""Riva's messages and ours: what goes there comes back, in the right unit, and unset is None."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from perch.core.audio import ms_to_samples, seconds_to_samples
from perch.core.speech import (
    Characters,
    Endpointing,
    HotWords,
    Hypothesis,
    ModelInfo,
    RecognitionConfig,
    Word,
)
from perch.riva import convert
from perch.riva.proto import AudioEncoding, asr

MS = 16  # samples
HOURS = 4 * 3600 * 1000  # milliseconds

texts = st.text(st.characters(codec="utf-8", exclude_categories=("Z", "C")), min_size=1, max_size=20)
fractions = st.floats(0.015625, 1.0, width=32)
boosts = st.floats(-100, 100, width=32)
milliseconds = st.integers(0, HOURS)


@st.composite
def words(draw: st.DrawFn) -> Word:
    start, end = sorted((draw(milliseconds), draw(milliseconds)))
    return Word(
        draw(texts),
        start * MS,
        end * MS,
        draw(st.none() | fractions),
        draw(st.integers(0, 8)),
    )


finals = st.builds(
    Hypothesis,
    text=texts,
    is_final=st.just(True),
    words=st.lists(words(), max_size=4).map(tuple),
    confidence=st.none() | fractions,
    end=st.integers(1, 1_000_000).map(lambda frames: frames * 160),
    language=st.sampled_from(["", "en-US"]),
)
configs = st.builds(
    RecognitionConfig,
    language=st.sampled_from(["", "en-US", "multi"]),
    model=texts,
    interim_results=st.booleans(),
    word_times=st.booleans(),
    character_times=st.booleans(),
    punctuation=st.booleans(),
    profanity_filter=st.booleans(),
    verbatim=st.booleans(),
    max_alternatives=st.integers(1, 30),
    hotwords=st.lists(
        st.builds(HotWords, st.lists(texts, min_size=1, max_size=3).map(tuple), boosts), max_size=3
    ).map(tuple),
    max_speakers=st.none() | st.integers(1, 8),
    endpointing=st.none()
    | st.builds(
        Endpointing,
        start_history_ms=st.none() | st.integers(1, 5000),
        start_threshold=st.none() | fractions,
        stop_history_ms=st.none() | st.integers(1, 5000),
        stop_threshold=st.none() | fractions,
        stop_history_eou_ms=st.none() | st.integers(1, 5000),
        stop_threshold_eou=st.none() | fractions,
    ),
    custom=st.dictionaries(texts, texts, max_size=3),
)


def near(end: int) -> int:
    """``audio_processed`` is a 32-bit float of seconds; four hours are still exact to a millisecond."""
    return seconds_to_samples(
        float(asr.StreamingRecognitionResult(audio_processed=end / 16_000).audio_processed)
    )


@given(configs)
def test_a_configuration_survives_the_way_there_and_back(config: RecognitionConfig) -> None:
    message = asr.RecognitionConfig.FromString(convert.config_to_proto(config).SerializeToString())
    assert convert.config_from_proto(message, interim_results=config.interim_results) == config


@given(finals)
def test_a_final_survives_with_its_word_times_and_its_own(final: Hypothesis) -> None:
    response = convert.response_to_proto([final], request_id="")
    (back,) = convert.hypotheses_from_proto(response, diarized=True)
    assert final.end is not None
    assert back.end is not None
    assert (back.text, back.words, back.confidence) == (final.text, final.words, final.confidence)
    assert back.language == final.language
    assert back.end == near(final.end)
    assert abs(back.end - final.end) < 40  # samples


@given(finals)
def test_an_offline_result_survives_alike(final: Hypothesis) -> None:
    (back,) = convert.offline_from_proto(convert.offline_to_proto([final], request_id=""), diarized=True)
    assert (back.text, back.words, back.confidence) == (final.text, final.words, final.confidence)
    assert back.is_final


def test_characters_are_words_of_their_own_on_the_wire_and_belong_to_one_again() -> None:
    words = (
        Word("hello,", 160, 640, 0.5, characters=(Characters("hel", 160, 320), Characters("lo,", 320, 640))),
        Word("world", 800, 960, 0.25, characters=(Characters("world", 800, 960),)),
    )
    final = Hypothesis("hello, world", is_final=True, words=words, end=16_000)
    response = convert.response_to_proto([final], request_id="")
    infos = response.results[0].alternatives[0].words
    assert [(one.word, one.start_time, one.end_time) for one in infos] == [
        (" hel", 10, 20),
        ("lo,", 20, 40),
        (" world", 50, 60),
    ]
    (back,) = convert.hypotheses_from_proto(response)
    assert back.words == words


def test_word_times_are_milliseconds_and_segment_times_are_seconds() -> None:
    final = Hypothesis("hello", is_final=True, words=(Word("hello", 16_000, 24_000),), end=32_000)
    (result,) = convert.response_to_proto([final], request_id="").results
    assert (result.alternatives[0].words[0].start_time, result.alternatives[0].words[0].end_time) == (
        1000,
        1500,
    )
    assert result.audio_processed == 2.0


@given(st.integers(0, 10**9))
def test_a_millisecond_is_a_millisecond_again(ms: int) -> None:
    ours = Word("x", ms_to_samples(ms), ms_to_samples(ms))
    final = Hypothesis("x", is_final=True, words=(ours,))
    (result,) = convert.response_to_proto([final], request_id="").results
    assert result.alternatives[0].words[0].start_time == ms


def result(transcript: str, **fields: Any) -> Any:
    alternatives = [asr.SpeechRecognitionAlternative(transcript=transcript)]
    return asr.StreamingRecognitionResult(alternatives=alternatives, **fields)


def test_what_is_not_set_is_none() -> None:
    message = result(" hi ", is_final=True)
    message.alternatives[0].words.add(word="hi", start_time=80, end_time=160)
    (final,) = convert.hypotheses_from_proto(asr.StreamingRecognizeResponse(results=[message]))
    assert final.text == "hi"
    assert final.confidence is None
    assert final.end is None
    assert final.words == (Word("hi", 1280, 2560, None, None),)


def test_confidences_that_are_no_numbers_are_none() -> None:
    message = result("hi", is_final=True)
    message.alternatives[0].confidence = float("nan")
    (final,) = convert.hypotheses_from_proto(asr.StreamingRecognizeResponse(results=[message]))
    assert final.confidence is None


def test_responses_without_anything_said_hold_no_hypothesis() -> None:
    assert convert.hypotheses_from_proto(asr.StreamingRecognizeResponse()) == []
    empty = asr.StreamingRecognizeResponse(results=[asr.StreamingRecognitionResult(is_final=True)])
    assert convert.hypotheses_from_proto(empty) == []


def test_a_stable_part_and_its_unstable_tail_are_one_partial() -> None:
    response = asr.StreamingRecognizeResponse(
        results=[result("what is ", stability=0.9), result("natural", stability=0.1, audio_processed=2.0)]
    )
    (partial,) = convert.hypotheses_from_proto(response)
    assert partial.text == "what is natural"
    assert partial.stability == float(result("", stability=0.1).stability)
    assert partial.end == 32_000


def test_the_first_result_has_the_given_prefix_and_what_follows_a_final_a_space() -> None:
    said = [Hypothesis("one", is_final=True), Hypothesis("two", is_final=False)]
    response = convert.response_to_proto(said, request_id="")
    assert [r.alternatives[0].transcript for r in response.results] == ["one", " two"]
    response = convert.response_to_proto(said, request_id="", prefix=" ")
    assert [r.alternatives[0].transcript for r in response.results] == [" one", " two"]


def test_the_request_id_is_on_every_response_that_has_one() -> None:
    assert convert.response_to_proto([], request_id="call-7").id.value == "call-7"
    assert not convert.response_to_proto([], request_id="").HasField("id")
    assert convert.offline_to_proto([], request_id="call-7").id.value == "call-7"


def test_nvidias_clients_leave_out_what_the_server_shall_choose() -> None:
    message = asr.RecognitionConfig()
    message.diarization_config.enable_speaker_diarization = False
    message.speech_contexts.add()
    message.endpointing_config.stop_history = 0
    config = convert.config_from_proto(message, interim_results=True)
    assert (config.language, config.model, config.max_alternatives) == ("", "", 1)
    assert config.max_speakers is None
    assert config.hotwords == ()
    assert config.endpointing == Endpointing()


def test_declared_audio_says_what_is_to_be_found_out() -> None:
    assert convert.audio_from_proto(asr.RecognitionConfig()) == convert.DeclaredAudio("unspecified", 0, 1)
    stereo = asr.RecognitionConfig(
        encoding=AudioEncoding.MULAW, sample_rate_hertz=8000, audio_channel_count=2
    )
    assert convert.audio_from_proto(stereo) == convert.DeclaredAudio("mulaw", 8000, 2)
    assert convert.audio_from_proto(asr.RecognitionConfig(encoding=77)).encoding == "unknown"


def test_a_model_is_listed_once_for_each_way_of_using_it() -> None:
    model = ModelInfo(
        "perch", ("en-US", "en-GB"), offline=True, sample_rate=16_000, parameters={"notice": "n"}
    )
    response = convert.models_to_proto([model])
    assert [config.parameters["type"] for config in response.model_config] == ["online", "offline"]
    assert all(config.parameters["language_code"] == "en-US,en-GB" for config in response.model_config)
    online, offline = convert.models_from_proto(response)
    assert (online.name, online.languages, online.streaming, online.offline) == (
        "perch",
        ("en-US", "en-GB"),
        True,
        False,
    )
    assert (offline.streaming, offline.offline, offline.sample_rate) == (False, True, 16_000)
    assert online.parameters["notice"] == "n"


def test_a_model_of_an_unknown_server_is_not_guessed_at() -> None:
    response = asr.RivaSpeechRecognitionConfigResponse()
    response.model_config.add(model_name="mystery")
    assert convert.models_from_proto(response) == [
        ModelInfo("mystery", (), streaming=False, offline=False, sample_rate=None, parameters={})
    ]
