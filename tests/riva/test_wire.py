"""Requests written by hand are the bytes protobuf would have written."""

from hypothesis import given
from hypothesis import strategies as st

from perch.core.speech import RecognitionConfig
from perch.riva import wire
from perch.riva.proto import asr

# Where a varint of the length, or of the whole message, grows by a byte.
LENGTHS = st.one_of(
    st.integers(0, 70_000), st.sampled_from([0, 1, 127, 128, 129, 16_383, 16_384, 2_097_151, 2_097_152])
)


@given(LENGTHS)
def test_an_audio_request_is_what_protobuf_writes(length: int) -> None:
    pcm = bytes(length)
    assert wire.audio_request(pcm) == asr.StreamingRecognizeRequest(audio_content=pcm).SerializeToString()


@given(st.binary(max_size=300))
def test_an_audio_request_keeps_the_samples(pcm: bytes) -> None:
    request = asr.StreamingRecognizeRequest.FromString(wire.audio_request(pcm))
    assert request.WhichOneof("streaming_request") == "audio_content"
    assert request.audio_content == pcm


def test_a_configuration_request_carries_the_configuration_and_the_id() -> None:
    config = RecognitionConfig(language="de-DE", interim_results=False)
    request = asr.StreamingRecognizeRequest.FromString(wire.config_request(config, "call-7"))
    assert request.streaming_config.config.language_code == "de-DE"
    assert not request.streaming_config.interim_results
    assert request.id.value == "call-7"


def test_without_an_id_none_is_sent() -> None:
    request = asr.StreamingRecognizeRequest.FromString(wire.config_request(RecognitionConfig(), ""))
    assert not request.HasField("id")


def test_the_forced_end_is_a_request_without_audio() -> None:
    request = asr.StreamingRecognizeRequest.FromString(wire.FORCE_EOU)
    assert request.audio_content == b""
    assert dict(request.runtime_config) == {"force_eou": "true"}
