"""The one place that imports NVIDIA's generated messages; everything else takes them from here.

The wheel of ``nvidia-riva-client`` carries no type information, so the messages are ``Any`` to the type
checker. ``convert.py`` turns them into typed values before they go anywhere else.
"""

from grpc_health.v1 import health_pb2
from riva.client.proto import riva_asr_pb2 as asr
from riva.client.proto import riva_asr_pb2_grpc as asr_grpc
from riva.client.proto.riva_audio_pb2 import AudioEncoding

SERVICE = "nvidia.riva.asr.RivaSpeechRecognition"
STREAMING_RECOGNIZE = f"/{SERVICE}/StreamingRecognize"
RECOGNIZE = f"/{SERVICE}/Recognize"
GET_CONFIG = f"/{SERVICE}/GetRivaSpeechRecognitionConfig"
HEALTH_CHECK = "/grpc.health.v1.Health/Check"

__all__ = [
    "GET_CONFIG",
    "HEALTH_CHECK",
    "RECOGNIZE",
    "SERVICE",
    "STREAMING_RECOGNIZE",
    "AudioEncoding",
    "asr",
    "asr_grpc",
    "health_pb2",
]
