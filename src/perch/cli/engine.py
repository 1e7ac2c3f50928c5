"""``perch engine``: a Riva-compatible gRPC server over a recogniser in this machine."""

import argparse
import asyncio
import logging
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perch.cli.main import INTERRUPTED
from perch.cli.numbers import count, port_number
from perch.cli.ports import try_port
from perch.core import languages
from perch.errors import BadConfig, PerchError

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from perch.engine.config import ServerTls
    from perch.engine.server import EngineServer
    from perch.inference.choice import Choice, Machine
    from perch.inference.parakeet.model import LoadOptions
    from perch.inference.recogniser import Recogniser
    from perch.registry.cache import ModelCache

RECOGNISERS = ("auto", "embedded", "scripted")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument(
        "--port", type=port_number, default=50051, help="port; 0 takes a free one (default: %(default)s)"
    )
    parser.add_argument(
        "--recogniser",
        choices=RECOGNISERS,
        default="embedded",
        help="embedded; auto, which is the best model whose weights are here and can be run, else embedded; "
        "or scripted for tone words in tests (default: %(default)s)",
    )
    add_model_arguments(parser)
    parser.add_argument(
        "--slots",
        type=count,
        help="streams at the same time (default: the recogniser's own; for a model, measured at start)",
    )
    parser.add_argument("--tls-cert", type=Path, help="PEM certificate chain; serves TLS with --tls-key")
    parser.add_argument("--tls-key", type=Path, help="PEM private key of --tls-cert")
    parser.add_argument(
        "--client-ca", type=Path, help="PEM certificates that must have signed a client's (mTLS)"
    )
    parser.add_argument(
        "--api-key",
        default=os.environ.get("PERCH_ENGINE_API_KEY"),
        help="key that clients send as 'authorization: Bearer KEY' (default: $PERCH_ENGINE_API_KEY, else none)",
    )
    parser.add_argument(
        "--own-models-only",
        action="store_true",
        help="refuse model names that are not this engine's, instead of serving them all with its one model",
    )
    parser.add_argument(
        "--grace", type=float, default=5.0, help="seconds open streams get at the end (default: 5)"
    )
    parser.add_argument(
        "--idle-sequence",
        type=float,
        metavar="SECONDS",
        help="fail streams without audio for so long on their next message, as Riva does (default: never)",
    )
    parser.add_argument(
        "--ready-fd", type=int, metavar="FD", help="write the port and a newline to FD when serving"
    )
    parser.add_argument(
        "--parent-fd", type=int, metavar="FD", help="stop when FD, a pipe from the parent, closes"
    )


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Which model, and how it is loaded."""
    model = parser.add_argument_group("a model of your own, instead of --recogniser")
    model.add_argument(
        "--model",
        metavar="NAME|PATH",
        help="a model of the catalogue (perch models list), or weights: a folder (transformers, ONNX) or a .nemo file",
    )
    model.add_argument(
        "--models-dir",
        type=Path,
        metavar="FOLDER",
        help="where the weights of the catalogue's models are (default: $PERCH_MODELS_DIR, else ~/.cache/perch/models)",
    )
    model.add_argument("--name", help="what clients call it (default: the model's or the folder's name)")
    model.add_argument(
        "--languages",
        type=_languages,
        help="language tags, with commas between (default: the catalogue's, else en-US)",
    )
    model.add_argument("--backend", help="the library that runs it (default: told by its files)")
    model.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: CUDA where there is one"
    )
    model.add_argument(
        "--allow-cpu",
        action="store_true",
        default=os.environ.get("ALLOW_CPU", "").lower() in {"1", "true", "yes"},
        help="run on the CPU even if it is too slow for production (default: $ALLOW_CPU)",
    )
    model.add_argument(
        "--mode",
        choices=("auto", "cache-aware", "buffered", "vad-segmented"),
        default="auto",
        help="how streams are recognised (default: the best that the model can do)",
    )
    model.add_argument(
        "--chunk-ms",
        type=count,
        help="audio of one step of streaming, 80 to 1120 ms (default: the model's)",
    )
    model.add_argument(
        "--dtype",
        choices=("auto", "float32", "bfloat16", "float16", "int8"),
        default="auto",
        help="number format of the weights (default: %(default)s)",
    )
    model.add_argument("--threads", type=count, help="CPU threads of one step (default: all cores)")


def _languages(text: str) -> tuple[str, ...]:
    try:
        return tuple(languages.canonical(tag.strip()) for tag in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def run(args: argparse.Namespace) -> int:
    """Serve until a signal or the parent's end; a second signal does not wait for open streams."""
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run(args))


async def _run(args: argparse.Namespace) -> int:
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    try:
        return await _serve(args, _Ending(args.parent_fd))
    except (PerchError, OSError) as error:
        print(f"perch engine: {error}", file=sys.stderr)
        return 1


async def _serve(args: argparse.Namespace, ending: "_Ending") -> int:
    from perch.engine.config import EngineConfig
    from perch.engine.server import EngineServer

    config = EngineConfig(
        host=args.host,
        port=args.port,
        tls=_tls(args),
        api_key=args.api_key,
        slots=args.slots,
        accept_any_model=not args.own_models_only,
        stop_grace_s=args.grace,
        idle_sequence_s=args.idle_sequence,
    )
    try_port(args.host, args.port)
    recogniser = await _unless(ending.asked, _load(args))
    if recogniser is None:
        return INTERRUPTED if ending.is_interrupted else 0
    try:
        server = EngineServer(recogniser, config)
        await server.start()
        _announce(server.address, recogniser)
        _report_ready(args.ready_fd, server.port)
        await ending.asked.wait()
        await _stop(server, ending)
    finally:
        await recogniser.aclose()
    return 0


async def _unless(asked: asyncio.Event, loading: "Coroutine[Any, Any, Recogniser]") -> "Recogniser | None":
    """The recogniser; None if the end was asked for before it was there."""
    task, end = asyncio.create_task(loading), asyncio.create_task(asked.wait())
    try:
        await asyncio.wait({task, end}, return_when=asyncio.FIRST_COMPLETED)
        return await task if task.done() else None
    finally:
        for one in (task, end):
            one.cancel()
        await asyncio.wait({task, end})


class _Ending:
    """When to stop: ``asked`` at the first signal or the parent's end, ``forced`` at the next."""

    def __init__(self, parent_fd: int | None) -> None:
        self.asked = asyncio.Event()
        self.forced = asyncio.Event()
        self.is_interrupted = False
        """Whether somebody pressed Ctrl-C."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._ask)
        loop.add_signal_handler(signal.SIGINT, self._interrupt)
        if parent_fd is not None:
            loop.add_reader(parent_fd, self._parent_spoke, parent_fd)

    def _interrupt(self) -> None:
        self.is_interrupted = True
        self._ask()

    def _ask(self) -> None:
        (self.forced if self.asked.is_set() else self.asked).set()

    def _parent_spoke(self, parent_fd: int) -> None:
        if not os.read(parent_fd, 1024):
            asyncio.get_running_loop().remove_reader(parent_fd)
            self._ask()


async def _stop(server: "EngineServer", ending: _Ending) -> None:
    stopping = asyncio.create_task(server.stop())
    forced = asyncio.create_task(ending.forced.wait())
    await asyncio.wait({stopping, forced}, return_when=asyncio.FIRST_COMPLETED)
    if forced.done():
        await server.stop(grace_s=0)
    forced.cancel()
    await stopping


async def _load(args: argparse.Namespace) -> "Recogniser":
    from perch.inference.loader import load_recogniser

    if args.model is not None:
        return await _load_model(args, _choice(args))
    if args.recogniser != "auto":
        return await load_recogniser(args.recogniser, slots=args.slots)
    reasons = []
    for choice in _candidates(args):
        try:
            return await _load_model(args, choice)
        except BadConfig as error:
            logging.getLogger(__name__).warning("%s is passed over: %s", choice.entry.id, error.message)
            reasons.append(error.message)
    reasons = [reason for reason in (_passed_over(args), *reasons) if reason]
    return await load_recogniser("embedded", slots=args.slots, instead=" ".join(reasons))


async def _load_model(args: argparse.Namespace, choice: "Choice | None") -> "Recogniser":
    from perch.inference.loader import about, load_model
    from perch.registry import catalogue

    options = _options(args, choice)
    entry = catalogue.find(options.name)
    return await load_model(
        options,
        backend=choice.backend if choice else args.backend,
        slots=args.slots,
        aliases=tuple(name for name in (*entry.names, entry.engine_model) if name != options.name)
        if entry
        else (),
        about=about(entry) if entry else {},
    )


def _choice(args: argparse.Namespace) -> "Choice | None":
    """The weights of the catalogue's model that ``--model`` names; None if it is a path."""
    from perch.inference.choice import named
    from perch.registry import catalogue

    entry = catalogue.find(args.model)
    if entry is not None and not Path(args.model).exists():
        return named(entry, _cache(args), _machine(args), backend=args.backend)
    if not Path(args.model).exists():
        raise BadConfig(
            f"{args.model} is neither a file or folder nor a model of the catalogue, which has: "
            f"{', '.join(catalogue.names())}."
        )
    return None


def _candidates(args: argparse.Namespace) -> "list[Choice]":
    from perch.inference.choice import candidates

    return candidates(_cache(args), _machine(args))


def _passed_over(args: argparse.Namespace) -> str:
    from perch.inference.choice import passed_over

    return passed_over(_cache(args), _machine(args))


def _cache(args: argparse.Namespace) -> "ModelCache":
    from perch.registry.cache import ModelCache, default_folder

    return ModelCache(args.models_dir or default_folder(os.environ))


def _machine(args: argparse.Namespace) -> "Machine":
    from perch.inference.choice import Machine
    from perch.registry.machine import has_cuda

    return Machine(cuda=args.device != "cpu" and has_cuda(os.environ), allow_cpu=args.allow_cpu)


def options_of(args: argparse.Namespace) -> "LoadOptions":
    """How the model of ``add_model_arguments`` is loaded.

    Raises:
        BadConfig: There is no such model, or its weights are not here.
    """
    return _options(args, _choice(args))


def _name_of(path: Path) -> str:
    """What weights in a place are called: as their folder, or as the file without its ending."""
    from perch.inference.parakeet.backends import BACKENDS

    if path.is_file():
        return path.stem
    return path.parent.name if path.name in BACKENDS else path.name  # as ``perch models pull`` lays them


def _options(args: argparse.Namespace, choice: "Choice | None") -> "LoadOptions":
    from perch.inference.parakeet.model import LoadOptions
    from perch.registry import catalogue

    path = choice.path if choice else Path(args.model)
    name = args.name or (choice.entry.id if choice else _name_of(path.resolve()))
    entry = catalogue.find(name)
    spoken = entry.languages if entry else ("en-US",)
    return LoadOptions(
        path=str(path),
        name=name,
        languages=args.languages or spoken,
        device=args.device,
        allow_cpu=args.allow_cpu,
        mode=args.mode,
        chunk_ms=args.chunk_ms,
        dtype=args.dtype,
        threads=args.threads,
    )


def _announce(address: str, recogniser: "Recogniser") -> None:
    can = recogniser.capabilities
    print(
        f"perch engine: listening on {address}, model {can.model}, {can.streaming_mode}, {can.slots} streams",
        flush=True,
    )
    if can.notice:
        print(f"perch engine: {can.notice}", flush=True)


def _report_ready(ready_fd: int | None, port: int) -> None:
    if ready_fd is not None:
        os.write(ready_fd, b"%d\n" % port)
        os.close(ready_fd)


def _tls(args: argparse.Namespace) -> "ServerTls | None":
    from perch.engine.config import ServerTls

    if args.tls_cert is None and args.tls_key is None and args.client_ca is None:
        return None
    if args.tls_cert is None or args.tls_key is None:
        raise BadConfig("TLS needs both --tls-cert and --tls-key.")
    return ServerTls(
        certificate=args.tls_cert.read_bytes(),
        key=args.tls_key.read_bytes(),
        client_ca=args.client_ca.read_bytes() if args.client_ca else None,
    )
