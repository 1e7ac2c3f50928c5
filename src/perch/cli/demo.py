"""``perch demo``: the gateway, an engine and the page on this machine, ready to be spoken to."""

import argparse

from perch.cli import serve


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--port", type=int, help="port to listen on (PERCH_PORT)")
    parser.add_argument(
        "--backend", choices=("riva", "engine", "mock"), help="what recognises (PERCH_BACKEND)"
    )


def run(arguments: argparse.Namespace) -> int:
    """``perch serve`` on loopback without TLS: browsers trust http://localhost with a microphone."""
    return serve.run(
        argparse.Namespace(
            host="127.0.0.1", port=arguments.port, backend=arguments.backend, no_tls=True, insecure=False
        )
    )
