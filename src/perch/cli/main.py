"""``perch VERB …``: each verb is a file of this package, imported when it is used.

What this file needs is imported late too: until ``main`` runs, Ctrl-C shows where Python was.
"""

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from argparse import Namespace

VERBS = {
    "demo": "the gateway, an engine and the page, on http://localhost:8443",
    "serve": "run the gateway: HTTPS, WebSocket, the page",
    "engine": "run a Riva-compatible engine over a local recogniser",
    "transcribe": "transcribe files or the microphone in the terminal",
    "quality": "measure how well and how soon recordings are recognised",
    "check": "check that Riva answers, and list its models",
    "config": "check the settings, or print an example",
    "bench": "find out how many sessions a gateway takes",
    "keys": "make, list, revoke and check API keys",
    "models": "pull, list and remove the weights of models",
}

INTERRUPTED = 130
"""The exit status after Ctrl-C, as shells have it."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; the result is the exit status."""
    # gRPC's library in C writes what is none of a user's business, unless somebody wants it.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    with _ending_at_once():
        import asyncio
        import inspect

        arguments = _parse(sys.argv[1:] if argv is None else list(argv))
    try:
        status = arguments.run(arguments)
        return asyncio.run(status) if inspect.iscoroutine(status) else int(status)
    except KeyboardInterrupt:
        return INTERRUPTED


@contextmanager
def _ending_at_once() -> Iterator[None]:
    """Within the block, Ctrl-C ends the process: imports leave nothing to tidy up, and libraries half imported
    tell of an exception in many lines, or lose it.
    """
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler:  # ignored, in the background of a shell: let it be
        yield
        return
    signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _parse(argv: Sequence[str]) -> "Namespace":
    import argparse
    from importlib import import_module

    import perch

    parser = argparse.ArgumentParser(
        prog="perch", description="The speech gateway for Riva, NIM and local engines."
    )
    parser.add_argument("--version", action="version", version=f"perch {perch.__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    wanted = next((argument for argument in argv if not argument.startswith("-")), None)
    for verb, summary in VERBS.items():
        subparser = verbs.add_parser(verb, help=summary, description=summary[0].upper() + summary[1:] + ".")
        if verb == wanted:
            module = import_module(f"perch.cli.{verb}")
            module.add_arguments(subparser)
            subparser.set_defaults(run=module.run)
    return parser.parse_args(argv)
