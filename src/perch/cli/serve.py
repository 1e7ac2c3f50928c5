"""``perch serve``: the gateway, and an engine beside it unless there is a Riva to front."""

import argparse
import asyncio
import sys
from contextlib import AsyncExitStack, suppress
from typing import Any

import uvloop

from perch import errors, settings
from perch.asr.base import ASRClient
from perch.asr.riva_client import RivaASRClient
from perch.cli.ports import try_port
from perch.observability.engine import EngineWatch
from perch.observability.logging import configure_logging
from perch.observability.metrics import Metrics
from perch.observability.tracing import ExporterMissing, Tracing, otlp_provider
from perch.server.app import build_app
from perch.server.config import GatewayConfig
from perch.server.engine_process import EngineProcess
from perch.server.lifecycle import serve
from perch.server.monitor import EngineState
from perch.server.parts import PARTS
from perch.server.reload import watching
from perch.server.tls import server_tls


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--host", help="address to listen on (PERCH_HOST)")
    parser.add_argument("--port", type=int, help="port to listen on (PERCH_PORT)")
    parser.add_argument("--no-tls", action="store_true", help="plain HTTP and WS (PERCH_TLS=false)")
    parser.add_argument("--insecure", action="store_true", help="run without API keys beyond loopback")
    parser.add_argument(
        "--backend", choices=("riva", "engine", "mock"), help="what recognises (PERCH_BACKEND)"
    )


def run(arguments: argparse.Namespace) -> int:
    overrides: dict[str, Any] = {
        "perch_host": arguments.host,
        "perch_port": arguments.port,
        "perch_tls": False if arguments.no_tls else None,
        "perch_insecure": True if arguments.insecure else None,
        "perch_backend": arguments.backend,
    }
    try:
        loaded = settings.load(**overrides)
    except settings.InvalidSettings as error:
        print(error, file=sys.stderr)
        return 2
    pretty = loaded.perch_log_format == "pretty" or (
        loaded.perch_log_format == "auto" and sys.stderr.isatty()
    )
    configure_logging(
        level=loaded.perch_log_level, fmt="pretty" if pretty else "json", secrets=loaded.secrets()
    )
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(loaded))


async def _serve(loaded: settings.Settings) -> int:
    config = loaded.gateway()
    try:
        try_port(config.host, config.port, shared=config.reuse_port)
    except OSError as error:
        print(f"perch: {error}", file=sys.stderr)
        return 1
    try:
        tls, self_signed = (
            (None, None) if config.tls is None else server_tls(config.tls, config.state_dir, config.host)
        )
        tracing = Tracing(otlp_provider(loaded.perch_otlp_endpoint))
    except (OSError, ValueError) as error:
        print(f"perch: the certificate cannot be used: {error}", file=sys.stderr)
        return 2
    except ExporterMissing as error:
        print(f"perch: {error}", file=sys.stderr)
        return 2
    try:
        async with AsyncExitStack() as stack:
            stack.callback(tracing.shutdown)
            engine = await _engine(loaded, stack) if loaded.backend() == "engine" else None
            metrics = Metrics()
            client = _client(loaded, engine, EngineWatch(metrics, tracing))
            app = build_app(config, client, metrics, tracing)
            if engine is not None:
                engine.on_death = app[PARTS].monitor.doubt
            if tls is not None:
                await stack.enter_async_context(watching(tls))
            await serve(
                app,
                ssl_context=None if tls is None else tls.context,
                on_listening=lambda port: _announce(config, app[PARTS].monitor.state, port, self_signed),
            )
    except errors.PerchError as error:
        print(f"perch: {error.message}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"perch: cannot listen on {config.host}:{config.port}: {error.strerror}", file=sys.stderr)
        return 1
    return 0


def _client(loaded: settings.Settings, engine: EngineProcess | None, watch: EngineWatch) -> ASRClient:
    if engine is not None:
        return RivaASRClient(loaded.riva(endpoint=engine.address), watch=watch)
    if loaded.backend() == "mock":
        return RivaASRClient(mock_mode=True)
    return RivaASRClient(loaded.riva(), watch=watch)


async def _engine(loaded: settings.Settings, stack: AsyncExitStack) -> EngineProcess:
    """An engine beside the gateway, watched for as long as ``stack`` lives."""
    arguments = ["--recogniser", loaded.perch_engine_recogniser]
    if loaded.perch_engine_model:
        arguments += ["--model", loaded.perch_engine_model]
    if loaded.perch_models_dir is not None:
        arguments += ["--models-dir", str(loaded.perch_models_dir)]
    if loaded.perch_engine_slots is not None:
        arguments += ["--slots", str(loaded.perch_engine_slots)]
    engine = EngineProcess(arguments, start_s=loaded.perch_engine_start_s)
    print("Starting the speech engine …", file=sys.stderr)
    stack.push_async_callback(engine.aclose)
    await engine.start()
    watching = asyncio.create_task(engine.run(), name="engine-supervisor")
    stack.push_async_callback(_cancel, watching)
    return engine


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


def _announce(config: GatewayConfig, engine: EngineState, port: int, self_signed: object) -> None:
    scheme = "http" if config.tls is None else "https"
    host = "localhost" if config.host in {"127.0.0.1", "::1", "0.0.0.0", "::"} else config.host  # noqa: S104
    backend = engine.backend
    abilities = backend.abilities.get(backend.model)
    mode = "" if abilities is None else f", {abilities.streaming_mode}"
    lines = [
        f"Perch is listening: open {scheme}://{host}:{port}/ and speak.",
        f"  backend  {backend.kind}{f', model {backend.model}{mode}' if backend.model else ''}",
    ]
    if engine.problem is not None:
        lines.append(f"  PROBLEM  {engine.problem.message} Sessions are refused until it answers.")
    if engine.missing is not None:
        lines.append(f"  PROBLEM  {engine.missing.message}")
    if backend.notice:
        lines.append(f"  note     {backend.notice}")
    if self_signed is not None:
        lines.append(f"  TLS      self-signed certificate ({self_signed}); your browser will ask once")
    if config.is_open:
        lines.append("  access   no API keys: everybody who can reach this address may use it")
    if not config.asr_enabled:
        lines.append("  note     recognition is switched off (ASR_ENABLED=false): every session is refused")
    print("\n".join(lines), flush=True)
