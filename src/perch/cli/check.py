"""``perch check riva``: is there an engine, and which models does it serve?"""

import argparse
import asyncio
import sys

from perch import errors, settings
from perch.asr.riva_client import RivaASRClient, RivaConfig
from perch.core.speech import ModelInfo


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", choices=("riva",), help="what to check")
    parser.add_argument("--address", metavar="HOST:PORT", help="ask this engine instead of RIVA_HOST")


def run(arguments: argparse.Namespace) -> int:
    try:
        loaded = settings.load(riva_host=arguments.address)
    except settings.InvalidSettings as error:
        print(error, file=sys.stderr)
        return 2
    if not loaded.riva_host:
        print("Set RIVA_HOST, or say which engine with --address HOST:PORT.", file=sys.stderr)
        return 2
    return asyncio.run(_check(loaded.riva()))


async def _check(config: RivaConfig) -> int:
    address = ", ".join(config.endpoints)
    client = RivaASRClient(config)
    try:
        models = await client.models()
    except errors.PerchError as error:
        print(f"{address}: {error.message} ({error.code})", file=sys.stderr)
        if isinstance(error, errors.EngineUnavailable):
            print("Is the engine running, and is this its gRPC port (NIM: 50051, not 9000)?", file=sys.stderr)
        return 1
    finally:
        await client.aclose()
    if not models:
        print(f"{address} answers but has no model loaded.", file=sys.stderr)
        return 1
    print(f"{address} serves {len(models)} model{'s' * (len(models) != 1)}:")
    for info in models:
        print(f"  {_line(info)}")
    return 0


def _line(info: ModelInfo) -> str:
    kinds = [kind for kind, offered in (("streaming", info.streaming), ("offline", info.offline)) if offered]
    return f"{info.name}  [{', '.join(info.languages) or 'any language'}]  {'/'.join(kinds)}"
