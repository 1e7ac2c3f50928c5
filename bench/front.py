"""``./run front``: what streams cost an engine besides its model.

Receiving audio, speech detection and utterances are the engine's own process, one for all streams; a GPU does
not speed them up. The model here is one of tone words, which costs next to nothing and hears none in speech.
"""

import argparse
import asyncio
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from time import perf_counter

import psutil
from bench.clip import FRAME_BYTES, FRAME_S, endless, recorded
from bench.grpc_client import GrpcStream, audio_frame, connections
from bench.latency import percentile
from bench.processes import ROOT, Server, engine_of
from rich.console import Console
from rich.table import Table

SPEECH = ROOT / "tests/fixtures/speech/jfk.wav"
_WARM_UP_S = 3.0


@dataclass(frozen=True, slots=True)
class Figures:
    """Of so many streams at real-time pace.

    Args:
        loop_ms: CPU time of the engine's event loop, which has one core, for each second of one stream.
        others_ms: The same of its process's other threads: speech detection, and some of gRPC's.
        model_ms: The same of its model's process.
        cores: CPU time of all of them a second.
        answered_ms: From a frame being sent to its response, p50 and p95.
    """

    streams: int
    loop_ms: float
    others_ms: float
    model_ms: float
    cores: float
    answered_ms: tuple[float, float]


async def measure(server: Server, streams: int, seconds: float, speech: list[bytes]) -> Figures:
    """Figures of ``streams`` that begin spread evenly over a frame and over the speech."""
    async with connections(server.address) as opened:
        clients = [await opened.connect() for _ in range(streams)]
        starts = [perf_counter() + FRAME_S * (1 + index / streams) for index in range(streams)]
        frames = round((_WARM_UP_S + seconds) / FRAME_S)
        speaking = [
            asyncio.create_task(_speak(client, start, islice(_from(speech, index), frames)))
            for index, (client, start) in enumerate(zip(clients, starts, strict=True))
        ]
        await asyncio.sleep(_WARM_UP_S)
        before, began = _cpu_s(server.pid), perf_counter()
        await asyncio.sleep(max(0.0, starts[0] + frames * FRAME_S - perf_counter()))
        took = perf_counter() - began
        used = [after - was for after, was in zip(_cpu_s(server.pid), before, strict=True)]
        await asyncio.gather(*speaking)
    answered = [
        heard[0] - (start + at * FRAME_S)
        for client, start in zip(clients, starts, strict=True)
        for at, heard in enumerate(client.heard[:frames])
        if at * FRAME_S >= _WARM_UP_S
    ]
    loop_ms, others_ms, model_ms = (1000 * cpu_s / (took * streams) for cpu_s in used)
    return Figures(
        streams,
        loop_ms,
        others_ms,
        model_ms,
        sum(used) / took,
        (1000 * percentile(answered, 50), 1000 * percentile(answered, 95)),
    )


async def _speak(client: GrpcStream, start: float, frames: Iterator[bytes]) -> None:
    for at, frame in enumerate(frames):
        await asyncio.sleep(max(0.0, start + at * FRAME_S - perf_counter()))
        await client.send(frame)
    await client.finish()


def _from(speech: list[bytes], index: int) -> Iterator[bytes]:
    return islice(endless(speech), index * 7 % len(speech), None)


def _cpu_s(pid: int) -> tuple[float, float, float]:
    """CPU seconds of the process's first thread, of its others, and of the processes it has started."""
    process = psutil.Process(pid)
    threads = {thread.id: thread.user_time + thread.system_time for thread in process.threads()}
    children = [child.cpu_times() for child in process.children(recursive=True)]
    loop = threads.pop(pid)
    return loop, sum(threads.values()), sum(times.user + times.system for times in children)


def read(path: Path) -> list[bytes]:
    """The frames of a recording, 16 kHz PCM16 mono, with a second of silence after it."""
    pcm = recorded(path)
    pcm += bytes(round(1 / FRAME_S) * FRAME_BYTES - len(pcm) % FRAME_BYTES)
    return [audio_frame(pcm[at : at + FRAME_BYTES]) for at in range(0, len(pcm), FRAME_BYTES)]


async def run(streams: list[int], seconds: float, audio: Path, console: Console) -> list[Figures]:
    found, speech = [], read(audio)
    model = ("--model", str(ROOT / "bench"), "--backend", "tones", "--chunk-ms", "320")
    async with engine_of(*model, "--slots", str(max(streams))) as server:
        for count in streams:
            console.print(f"[dim]{count} streams, {seconds:g} s …[/]")
            found.append(await measure(server, count, seconds, speech))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="./run front", description=__doc__)
    parser.add_argument("--streams", default="10,50,150", help="numbers of them (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each number (default: %(default)s)")
    parser.add_argument("--audio", type=Path, default=SPEECH, help="a recording of speech")
    arguments = parser.parse_args()
    streams = [int(count) for count in arguments.streams.split(",")]
    found = asyncio.run(run(streams, arguments.seconds, arguments.audio, Console(stderr=True)))
    table = Table("streams", "loop ms", "other threads ms", "model ms", "cores", "answered p50 ms", "p95 ms")
    for one in found:
        cells = (one.loop_ms, one.others_ms, one.model_ms, one.cores, *one.answered_ms)
        table.add_row(str(one.streams), *(f"{cell:.2f}" for cell in cells))
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
