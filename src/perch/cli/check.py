"""``perch check riva``: is there an engine, and which models does it serve?"""

import argparse
import asyncio
import socket
import sys

from perch import errors, settings
from perch.asr.discovery import DNS
from perch.asr.riva_client import RivaASRClient, RivaConfig
from perch.core.speech import ModelInfo

_CONNECT_S = 3.0


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
        if isinstance(error, errors.EngineUnavailable | errors.EngineTimeout) and error.__cause__ is not None:
            for endpoint in config.endpoints:
                print(await asyncio.to_thread(_obstacle, endpoint), file=sys.stderr)
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


def _obstacle(endpoint: str) -> str:
    """Why nothing is heard from ``host:port``, as far as an ordinary connection finds out."""
    host, _, port = endpoint.removeprefix(DNS).rpartition(":")
    host = host.strip("[]")
    try:
        socket.create_connection((host, int(port)), _CONNECT_S).close()
    except socket.gaierror as error:
        return f"The name {host} cannot be looked up ({error.strerror}): is it spelt right?"
    except ConnectionRefusedError:
        return (
            f"Nothing listens on port {port} of {host}: is the engine running, and is this its gRPC port "
            "(NIM: 50051, not 9000)?"
        )
    except TimeoutError:
        return f"Nothing comes back from port {port} of {host}: does a firewall stand between?"
    except OSError as error:
        return f"No connection can be made to {host}: {error.strerror}."
    return (
        f"Something listens on port {port} of {host}, and does not answer as an engine: is this its gRPC port "
        "(NIM: 50051, not 9000), and does it want TLS (RIVA_SSL=true)?"
    )


def _line(info: ModelInfo) -> str:
    kinds = [kind for kind, offered in (("streaming", info.streaming), ("offline", info.offline)) if offered]
    return f"{info.name}  [{', '.join(info.languages) or 'any language'}]  {'/'.join(kinds)}"
