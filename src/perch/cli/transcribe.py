"""``perch transcribe``: recordings or the microphone to text, by a gateway or straight by an engine."""

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path

from perch.audio.files import decode_file, probe
from perch.cli import formats
from perch.cli.display import Display
from perch.cli.microphone import microphone
from perch.cli.native_client import (
    DEFAULT_SERVER,
    ServerConfig,
    TranscriptionFailed,
    local_server,
    stream_url,
    transcribe,
)
from perch.cli.trust import client_tls
from perch.core.audio import RATE, seconds_to_samples
from perch.core.messages import Final, Notice, Partial
from perch.core.speech import RecognitionConfig
from perch.errors import PerchError

OK, FAILED, USAGE = 0, 1, 2

Audio = AsyncIterator[bytes]
Update = Partial | Final | Notice
Recognise = Callable[[Audio], AsyncIterator[Update]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``perch transcribe``."""
    parser.add_argument("files", nargs="*", metavar="FILE", help="a recording in any format; - is stdin")
    parser.add_argument("--mic", action="store_true", help="transcribe the microphone until Ctrl-C")
    parser.add_argument("--format", choices=sorted(formats.WRITERS), default="text", help="default: text")
    parser.add_argument(
        "-o",
        "--output-dir",
        type=Path,
        metavar="DIR",
        help="write one file per recording there, not to stdout",
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--server", metavar="URL", help="a Perch server (default: the one on this machine)")
    where.add_argument(
        "--engine", metavar="HOST:PORT", help="a Riva or Perch engine, without a server (default: RIVA_HOST)"
    )
    parser.add_argument("--language", default="", help="such as en-US; the server's default if not given")
    parser.add_argument("--model", default="", help="the server's default if not given")
    parser.add_argument(
        "--hotwords", default="", metavar="A,B", help="phrases to prefer, separated by commas"
    )
    parser.add_argument("--api-key", default="", metavar="KEY", help="default: PERCH_API_KEY")
    trust = parser.add_mutually_exclusive_group()
    trust.add_argument("--ca", type=Path, metavar="FILE", help="who may sign the server's certificate")
    trust.add_argument("--insecure", action="store_true", help="accept any certificate: for development")


async def run(args: argparse.Namespace) -> int:
    """Transcribe what ``args`` name; the exit status of the program.

    0: all was transcribed. 1: something failed, the rest was transcribed. 2: the options make no sense.
    """
    mistake = _mistake(args)
    if mistake:
        print(f"perch transcribe: {mistake}", file=sys.stderr)
        return USAGE
    from perch.settings import InvalidSettings

    try:
        async with _recogniser(args) as recognise:
            if args.mic:
                return await _microphone(args, recognise)
            statuses = [await _recording(args, recognise, name) for name in args.files]
    except InvalidSettings as invalid:
        print(f"perch transcribe: {invalid}", file=sys.stderr)
        return USAGE
    return max(statuses)


def _mistake(args: argparse.Namespace) -> str:
    if bool(args.files) == args.mic:
        return "name the recordings to transcribe, or use --mic."
    if args.ca is not None and not args.ca.is_file():
        return f"--ca {args.ca} is not a file."
    if args.format in {"srt", "vtt"} and len(args.files) > 1 and args.output_dir is None:
        return f"several recordings cannot share one {args.format} output; add --output-dir DIR."
    try:
        stream_url(args.server or DEFAULT_SERVER)
    except ValueError as error:
        return f"--server {error}."
    return ""


# --- Who recognises


def _recogniser(args: argparse.Namespace) -> AbstractAsyncContextManager[Recognise]:
    engine = args.engine or ("" if args.server else os.environ.get("RIVA_HOST", ""))
    return _engine(args, engine) if engine else _server(args)


@asynccontextmanager
async def _server(args: argparse.Namespace) -> AsyncIterator[Recognise]:
    url = args.server or await local_server()
    config = ServerConfig(
        url=url,
        api_key=_api_key(args),
        tls=client_tls(args.server, args.ca, insecure=args.insecure),
        session=_session(args),
    )
    yield lambda audio: transcribe(config, audio)


@asynccontextmanager
async def _engine(args: argparse.Namespace, address: str) -> AsyncIterator[Recognise]:
    """Straight to an engine, with the gateway's own settings for one (RIVA_SSL, RIVA_API_KEY, …)."""
    from perch import settings
    from perch.asr.riva_client import RivaASRClient

    riva = settings.load(riva_host=address, riva_api_key=args.api_key or None).riva()
    if args.ca is not None:
        riva = replace(riva, channel=replace(riva.channel, root_cert=args.ca))
    client = RivaASRClient(riva)
    config = RecognitionConfig(language=args.language, model=args.model)
    try:
        yield lambda audio: client.stream_transcribe(audio, RATE, hotwords=_hotwords(args), config=config)
    finally:
        await client.aclose()


def _api_key(args: argparse.Namespace) -> str:
    return str(args.api_key or os.environ.get("PERCH_API_KEY", ""))


def _hotwords(args: argparse.Namespace) -> list[str]:
    return [phrase.strip() for phrase in args.hotwords.split(",") if phrase.strip()]


def _session(args: argparse.Namespace) -> dict[str, object]:
    wanted = {"language": args.language, "model": args.model, "hotwords": _hotwords(args)}
    return {"sample_rate": RATE, "encoding": "pcm16"} | {key: value for key, value in wanted.items() if value}


# --- What is recognised


async def _recording(args: argparse.Namespace, recognise: Recognise, name: str) -> int:
    try:
        with Display(name, await asyncio.to_thread(_length, name)) as display:
            _begin(args, name)
            segments = await _segments(recognise(_decoded(name)), display, show=_shows_at_once(args))
    except (PerchError, TranscriptionFailed, OSError) as error:
        print(f"{name}: {_reason(error)}", file=sys.stderr)
        return FAILED
    _write(args, name, segments)
    return OK


async def _microphone(args: argparse.Namespace, recognise: Recognise) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, stop.set)
    try:
        with Display("listening (Ctrl-C ends)", None) as display:
            segments = await _segments(recognise(microphone(stop)), display, show=_shows_at_once(args))
    except (PerchError, TranscriptionFailed) as error:
        print(f"microphone: {_reason(error)}", file=sys.stderr)
        return FAILED
    finally:
        loop.remove_signal_handler(signal.SIGINT)
    _write(args, "microphone", segments)
    return OK


async def _segments(updates: AsyncIterator[Update], display: Display, *, show: bool) -> list[Final]:
    finals: list[Final] = []
    async with aclosing(updates) as stream:  # type: ignore[type-var]
        async for update in stream:
            match update:
                case Partial():
                    display.heard(update.end, update.text)
                case Final():
                    finals.append(update)
                    display.heard(update.end)
                    if show:
                        print(formats.text("", [update]), end="", flush=True)
                case Notice():
                    display.tell(update.message)
    return finals


def _length(name: str) -> int | None:
    seconds = None if name == "-" else probe(name)
    return None if seconds is None else seconds_to_samples(seconds)


async def _decoded(name: str) -> Audio:
    """A recording's audio, decoded in a thread as it is asked for, a second at a time."""
    chunks: Iterator[bytes] = decode_file(sys.stdin.buffer if name == "-" else name)
    while (chunk := await asyncio.to_thread(next, chunks, None)) is not None:
        yield chunk


def _shows_at_once(args: argparse.Namespace) -> bool:
    """Text needs no end to be complete: who watches should see each segment as it is finished."""
    return args.format == "text" and args.output_dir is None


def _begin(args: argparse.Namespace, name: str) -> None:
    if _shows_at_once(args) and len(args.files) > 1:
        print(f"# {name}", flush=True)


def _write(args: argparse.Namespace, name: str, segments: list[Final]) -> None:
    if _shows_at_once(args):
        return
    document = formats.WRITERS[args.format](name, segments)
    if args.output_dir is not None:
        args.output_dir.mkdir(parents=True, exist_ok=True)
        stem = "stdin" if name == "-" else Path(name).name
        (args.output_dir / (stem + formats.SUFFIXES[args.format])).write_text(document, encoding="utf-8")
        return
    print(document, end="", flush=True)


def _reason(error: Exception) -> str:
    if isinstance(error, PerchError):
        return f"{error.message} [{error.code}]"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error)
