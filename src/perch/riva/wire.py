"""Streaming requests as bytes, without a message object per audio frame.

``StreamingRecognizeRequest`` is ``oneof {streaming_config = 1, audio_content = 2}``, so a request with
only audio is the tag 0x12, a varint length and the samples (protobuf encoding, "Length-Delimited
Records"). Everything rarer is serialised by protobuf itself.
"""

from functools import lru_cache

from perch.core.speech import RecognitionConfig
from perch.riva import convert
from perch.riva.proto import asr

_AUDIO_CONTENT_TAG = b"\x12"


@lru_cache(maxsize=256)
def _audio_prefix(length: int) -> bytes:
    """Tag and varint of a frame; real clients send a handful of lengths, over and over."""
    varint = bytearray()
    while length > 0x7F:
        varint.append(length & 0x7F | 0x80)
        length >>= 7
    varint.append(length)
    return _AUDIO_CONTENT_TAG + bytes(varint)


def audio_request(pcm: bytes) -> bytes:
    """A serialised request that carries ``pcm`` and nothing else."""
    return _audio_prefix(len(pcm)) + pcm


def config_request(config: RecognitionConfig, request_id: str) -> bytes:
    """The serialised first request of a stream of 16 kHz mono PCM16."""
    message = asr.StreamingRecognizeRequest(
        streaming_config=asr.StreamingRecognitionConfig(
            config=convert.config_to_proto(config), interim_results=config.interim_results
        )
    )
    if request_id:
        message.id.value = request_id
    serialised: bytes = message.SerializeToString()
    return serialised


def nothing_new(request_id: str) -> bytes:
    """The serialised response that answers a message with no results: at most the echoed id."""
    message = asr.StreamingRecognizeResponse()
    if request_id:
        message.id.value = request_id
    serialised: bytes = message.SerializeToString()
    return serialised


def _force_eou_request() -> bytes:
    message = asr.StreamingRecognizeRequest(audio_content=b"", runtime_config={"force_eou": "true"})
    serialised: bytes = message.SerializeToString()
    return serialised


FORCE_EOU = _force_eou_request()
"""Ends the current utterance without ending the stream (Riva 26.07 and later)."""
