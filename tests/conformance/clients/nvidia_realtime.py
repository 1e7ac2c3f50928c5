"""NVIDIA's own realtime client against Perch: python nvidia_realtime.py HTTP_URL KEY WAV mint|open"""

import argparse
import asyncio
import json
import sys
from pathlib import Path

import riva.client.realtime

url, key, path, variant = sys.argv[1:]
arguments = argparse.Namespace(
    server=url.removeprefix("http://"),
    endpoint="/v1/realtime",
    query_params="intent=transcription" + ("" if variant == "mint" else f"&api_key={key}"),
    use_ssl=False,
    ssl_root_cert=None,
    ssl_client_cert=None,
    ssl_client_key=None,
    mint_api_key=key if variant == "mint" else None,
    mic=False,
    language_code="",
    model_name="",
    prompt="",
    sample_rate_hz=16_000,
    num_channels=1,
    max_alternatives=1,
    automatic_punctuation=False,
    word_time_offsets=True,
    profanity_filter=False,
    no_verbatim_transcripts=False,
    speaker_diarization=False,
    diarization_max_speakers=3,
    boosted_lm_words=None,
    boosted_lm_score=4.0,
    start_history=-1,
    start_threshold=-1.0,
    stop_history=-1,
    stop_threshold=-1.0,
    stop_history_eou=-1,
    stop_threshold_eou=-1.0,
    custom_configuration="",
)


async def main(data: bytes) -> None:
    client = riva.client.realtime.RealtimeClientASR(arguments)
    await client.connect()
    chunks = (data[i : i + 3200] for i in range(0, len(data), 3200))
    await asyncio.gather(client.send_audio_chunks(chunks), client.receive_responses())
    await client.disconnect()
    print("\n" + json.dumps({"text": client.final_transcript, "kinds": []}))


asyncio.run(asyncio.wait_for(main(Path(path).read_bytes()), 90))
